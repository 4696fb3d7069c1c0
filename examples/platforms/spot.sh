#!/bin/sh
# Ends with 0 once this machine of AWS is going to be taken away: holdfast run --notice-command ./spot.sh
data=http://169.254.169.254/latest
token=$(curl -sfX PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' "$data/api/token") || exit 1
exec curl -sf -o /dev/null -H "X-aws-ec2-metadata-token: $token" "$data/meta-data/spot/instance-action"

"""The process that makes snapshots durable beside a trainer, and after its death."""

"""Export and import: ``.pt``, ``.safetensors``, ``.pdparams`` with ``.pdopt``, Hugging Face folders."""

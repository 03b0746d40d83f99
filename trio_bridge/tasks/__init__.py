"""The long-running loops, one a module; `service.py` starts them."""

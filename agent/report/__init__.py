"""Write run.json and the manifest, and make what people read of them."""

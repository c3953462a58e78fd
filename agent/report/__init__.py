"""Write run.json and the manifest, and make the report from them."""

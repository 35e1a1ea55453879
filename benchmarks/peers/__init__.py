"""The other packages: each file or folder here runs in an environment that holds that package."""

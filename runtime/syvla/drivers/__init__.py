"""Vendor SDKs behind the driver protocols, and the emulators that answer them."""

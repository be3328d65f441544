"""isola_anyio."""

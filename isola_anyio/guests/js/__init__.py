"""JavaScript guests: the driver of QuickJS, and in ``sdk/`` the JavaScript that runs inside it."""

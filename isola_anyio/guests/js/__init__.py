"""The JavaScript guest: the SDK that runs inside QuickJS, and the driver that puts it there."""

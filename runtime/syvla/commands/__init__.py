"""What the ``syvla`` command can do: reads its arguments, checks them, and calls the apps."""

"""How far the metrics can be trusted: planted flaws, agreement with people, and the page that shows both."""

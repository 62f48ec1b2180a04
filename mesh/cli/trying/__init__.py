"""`mesh try`: what the README shows, typed on this machine by real commands, and each step explained."""

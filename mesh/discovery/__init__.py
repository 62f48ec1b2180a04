"""Who is there: signed provider records and the directory that carries them."""

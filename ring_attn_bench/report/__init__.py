"""From records to tables, CSV, plots and one page; needs no GPU and no torch."""

"""The ring: plans executed over a transport, merged, and differentiated."""

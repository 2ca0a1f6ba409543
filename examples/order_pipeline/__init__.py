"""An order pipeline: storefront → inventory → payment → shipping, with compensation. Read ``storefront.py`` first."""

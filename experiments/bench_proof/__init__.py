"""Does `verify` accept what is not true? Forged certificates, honest ones in all units, and what a proof costs."""

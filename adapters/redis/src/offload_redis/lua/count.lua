-- How many jobs of one queue there are, at one moment.
-- KEYS ready, running, later, dead

return {
  look('LLEN', KEYS[1]) or 0,
  look('HLEN', KEYS[2]) or 0,
  look('ZCARD', KEYS[3]) or 0,
  look('ZCARD', KEYS[4]) or 0,
}

-- How many jobs of one queue there are, at one moment.
-- KEYS ready, running, later, dead

return {
  redis.call('LLEN', KEYS[1]),
  redis.call('HLEN', KEYS[2]),
  redis.call('ZCARD', KEYS[3]),
  redis.call('ZCARD', KEYS[4]),
}

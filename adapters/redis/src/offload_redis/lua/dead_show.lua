-- One dead letter of one queue.
-- KEYS dead, dead_jobs, dead_reasons
-- ARGV id
-- Returns score, entry, reason; those that are missing as nothing.

return {
  look('ZSCORE', KEYS[1], ARGV[1]),
  look('HGET', KEYS[2], ARGV[1]),
  look('HGET', KEYS[3], ARGV[1]),
}

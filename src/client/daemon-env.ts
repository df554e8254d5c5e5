/** What the daemon's process is given in its environment beyond what its user has. */

/**
 * glibc keeps what a burst of work freed: a limit for what comes from its heaps that it may not raise, and few heaps,
 * make an idle daemon a third smaller (85 instead of 130 MB after the first start of a VM). See mallopt(3).
 */
export const DAEMON_MEMORY = { MALLOC_ARENA_MAX: '2', MALLOC_MMAP_THRESHOLD_: '131072' } as const;

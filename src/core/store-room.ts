/** Guests that use up the room their disks share: which of them is held, when it goes on, how often to look. */

/** What a VM's files have grown by since there was room enough, or since another VM was held. */
export interface Growth {
  id: string;
  bytes: number;
}

/** A VM that took less than this part of what is left is not who fills the disk; the less is left, the less it may take. */
const TELLING_PART = 32;

/** No file system counts in smaller steps than this many bytes, and logs of the VMM grow by a line. */
const LEAST_BYTES = 64 * 1024;

/** The VM that has taken the most, when that is enough to be told apart from a quiet one. */
export function greediest(grown: readonly Growth[], freeBytes: number): Growth | undefined {
  const telling = Math.max(LEAST_BYTES, freeBytes / TELLING_PART);
  return grown.reduce<Growth | undefined>(
    (most, each) => (each.bytes >= telling && each.bytes > (most?.bytes ?? 0) ? each : most),
    undefined,
  );
}

/** Room at which VMs go on: a quarter more than they are held below, so that the next write does not hold them again. */
export function roomToGoOn(minFreeBytes: number): number {
  return Math.ceil(minFreeBytes * 1.25);
}

/** What guests may write in a millisecond: what a good NVMe drive takes. */
const FASTEST_BYTES_PER_MS = (4 * 2 ** 30) / 1000;

const SHORTEST_LOOK_MS = 250;

/** Where nothing has moved since the last look, room that is short is looked at less often. */
const CALM_LOOK_MS = 1000;

/**
 * When to look again, in `ms`: before the fastest guest could have used up what is left.
 * @param leftBytes room above the limit; below it, negative
 * @param shrinks whether there was more at the last look
 * @param longestMs however much is left
 */
export function nextLookMs(leftBytes: number, shrinks: boolean, longestMs: number): number {
  const soon = shrinks ? SHORTEST_LOOK_MS : CALM_LOOK_MS;
  return Math.min(longestMs, Math.max(soon, Math.round(leftBytes / FASTEST_BYTES_PER_MS)));
}

/** Room above the limit below which the files of VMs are looked at too, so that it is known who takes the rest. */
export function isNear(leftBytes: number): boolean {
  return leftBytes < FASTEST_BYTES_PER_MS * SHORTEST_LOOK_MS;
}

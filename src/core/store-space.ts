/** When the file system of the store is short of room. */

export type SpaceState = 'ok' | 'low' | 'full';

/** A tenth of free room is when people are warned. */
const LOW_FRACTION = 10;

export interface Space {
  sizeBytes: number;
  /** what this user may still write */
  freeBytes: number;
}

/** `full`: less than `minFreeBytes` are left, and no VM is started; `low`: nine tenths are used. */
export function spaceState({ sizeBytes, freeBytes }: Space, minFreeBytes: number): SpaceState {
  if (freeBytes < minFreeBytes) return 'full';
  return freeBytes * LOW_FRACTION <= sizeBytes ? 'low' : 'ok';
}

/** When the file system of the store is short of room. */

export type SpaceState = 'ok' | 'low' | 'full';

/** Used share from which on people are warned. */
const LOW_SHARE = 0.9;

export interface Space {
  sizeBytes: number;
  /** what this user may still write */
  freeBytes: number;
}

/** `full`: less than `minFreeBytes` are left, and no VM is started; `low`: nine tenths are used. */
export function spaceState({ sizeBytes, freeBytes }: Space, minFreeBytes: number): SpaceState {
  if (freeBytes < minFreeBytes) return 'full';
  return freeBytes <= sizeBytes * (1 - LOW_SHARE) ? 'low' : 'ok';
}

/** Whether a guest that says it is off is: anybody in it can write that line, and its VMM lives on either way. */

/** What a look at the guest's processors found. */
export type Look = 'still' | 'runs' | 'paused' | 'gone';

export interface PowerOffOptions {
  look: () => Promise<Look>;
  /** whether nothing has followed the line on the console */
  isLastWord: () => Promise<boolean>;
  /** the first looks found a guest that runs */
  onDoubt: () => void;
  /** in ms; ends early when `signal` is aborted */
  wait: (ms: number) => Promise<unknown>;
  signal: AbortSignal;
}

/** It may have disks to write out; after these looks the line was only a line … */
export const FIRST_LOOKS = { count: 10, everyMs: 500 };
/** … unless nothing follows it on the console: each packet for a guest that is off wakes a processor of its VMM for a moment. */
export const LATE_LOOKS = { count: 30, everyMs: 10_000 };

/** Looks until its processors stand still, or until it is clear that it runs on; while it is paused nothing is decided. */
export async function staysOff(options: PowerOffOptions): Promise<boolean> {
  const { onDoubt, isLastWord, signal } = options;
  const first = await lookAgain(options, FIRST_LOOKS);
  if (first !== 'runs') return first === 'still';
  if (!signal.aborted) onDoubt();
  return (await lookAgain(options, LATE_LOOKS, isLastWord)) === 'still';
}

async function lookAgain(
  { look, wait, signal }: PowerOffOptions,
  { count, everyMs }: typeof FIRST_LOOKS,
  mayBe = async () => true,
): Promise<Look> {
  for (let looks = 0; looks < count && !signal.aborted && (await mayBe()); ) {
    const found = await look();
    if (found === 'still' || found === 'gone') return found;
    if (found === 'runs') looks++;
    await wait(everyMs);
  }
  return 'runs';
}

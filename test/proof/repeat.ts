/**
 * A file whose test failed while a guest showed the known fault of the emulated processor is run again, at most twice. Each
 * repeat is reported. A file that failed in any other way is not run again, and its last run counts.
 */
import type { ProvenTest, Repeat } from './outcome.ts';

export const REPEATS = 2;

export interface FileResult {
  tests: ProvenTest[];
  /** of the known fault, where a test failed and it was seen */
  evidence?: string;
}

export async function runWithRepeats(
  file: string,
  run: () => Promise<FileResult>,
  report: (repeat: Repeat) => void,
): Promise<{ tests: ProvenTest[]; repeats: Repeat[] }> {
  const repeats: Repeat[] = [];
  let result = await run();
  while (result.evidence !== undefined && repeats.length < REPEATS) {
    const repeat = { file, evidence: result.evidence };
    repeats.push(repeat);
    report(repeat);
    result = await run();
  }
  return { tests: result.tests, repeats };
}

/** What a run came to: evidence counts where a test failed, and nowhere else. */
export function judged(tests: ProvenTest[], evidence: string | undefined): FileResult {
  const failed = tests.some(({ outcome }) => outcome === 'failed');
  return failed && evidence !== undefined ? { tests, evidence } : { tests };
}

/** Progress that nobody follows. */
import type { Progress } from '../../src/control/operations.ts';

export function quietProgress(): Progress {
  return { step: () => {}, report: () => {}, line: () => {}, warn: () => {} };
}

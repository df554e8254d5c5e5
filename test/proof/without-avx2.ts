/**
 * QEMU computes vectors by calls that cost many times what the integer code they replace costs: SHA-256 in the rig took 40
 * times as long with AVX2 as without. So the rig's processor has none. AVX itself must stay, because guests of the rig fail
 * without it at their first signal. BMI2 goes with AVX2, as on real processors: libgcrypt, and so apt and gpg, takes AVX with
 * BMI2 for AVX2.
 */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';

/** The processor that banger asks for, as one argument. */
export const MODEL = 'EPYC,check=off';
export const LACKS = 'avx2=off,bmi2=off';

const SCRIPT = `#!/bin/sh
for word; do
  shift
  [ "$word" = ${MODEL} ] && word=${MODEL},${LACKS}
  set -- "$@" "$word"
done
exec qemu-system-x86_64 "$@"
`;

/** Writes a program that is QEMU but for the processor; returns its path. */
export function qemuWithoutAvx2(directory: string): string {
  const path = join(directory, 'qemu-without-avx2');
  writeFileSync(path, SCRIPT, { mode: 0o755 });
  return path;
}

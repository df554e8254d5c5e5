/** SHA256SUMS of a release, for `sha256sum --check`, and its signature. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';

export function sha256(file: string): string {
  return createHash('sha256').update(readFileSync(file)).digest('hex');
}

/**
 * @param files of the release, all of them in `directory`
 * @param key what gpg signs with; without it nothing is signed
 * @returns what was written: the sums, and the signature beside them
 * @throws Error when gpg does not sign; what it said is on stderr
 */
export function writeSums(directory: string, files: readonly string[], key: string | undefined): string[] {
  const sums = join(directory, 'SHA256SUMS');
  writeFileSync(sums, files.map((file) => `${sha256(file)}  ${basename(file)}\n`).join(''));
  if (!key) return [sums];
  const signature = `${sums}.asc`;
  const options = ['--batch', '--yes', '--armor', '--local-user', key, '--output', signature];
  execFileSync('gpg', [...options, '--detach-sign', sums], { stdio: ['ignore', 'ignore', 'inherit'] });
  return [sums, signature];
}

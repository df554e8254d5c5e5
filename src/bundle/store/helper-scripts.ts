/** The scripts for people that go into each bundle; they lie in helpers/ and, once built, inside the executable. */
import { readFile } from 'node:fs/promises';
import { getAsset, isSea } from 'node:sea';

export const HELPER_SCRIPTS: readonly string[] = ['customize.sh', 'interactive.sh', 'make-rootfs.sh', 'verify.sh'];

/** Each script's text by file name. */
export async function readHelperScripts(): Promise<Record<string, string>> {
  const scripts: Record<string, string> = {};
  for (const name of HELPER_SCRIPTS) {
    scripts[name] = isSea()
      ? getAsset(`helpers/${name}`, 'utf8')
      : await readFile(new URL(`../../../helpers/${name}`, import.meta.url), 'utf8');
  }
  return scripts;
}

/** A bundle whose agent is compiled to skip what a test is about: the test that guards it has to fail with it. */
import { execFile } from 'node:child_process';
import { appendFile, copyFile, cp, readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { writeCpio } from '../../src/bundle/boot/cpio.ts';
import { sumFile } from '../../src/bundle/store/checksum.ts';
import { readBundle, writeManifest } from '../../src/bundle/store/manifest.ts';
import { VERSION } from '../../src/version.ts';

const SOURCES = join(import.meta.dirname, '../../agent');

/**
 * Makes it at `directory`: `from` with another agent, which the kernel unpacks over the first.
 * @param define word of the preprocessor, e.g. `SKIP_RESEED`
 */
export async function blindBundle(from: string, directory: string, define: string): Promise<void> {
  await cp(from, directory, { recursive: true });
  const { manifest, initrd } = await readBundle(directory);
  // the original may be one file with others that tests boot
  const own = `${initrd}.own`;
  await copyFile(initrd, own);
  const sources = (await readdir(SOURCES)).filter((name) => name.endsWith('.c')).map((name) => join(SOURCES, name));
  const agent = join(directory, 'agent');
  const flags = ['-std=c11', '-D_GNU_SOURCE', '-Os', '-static', `-DVERSION="${VERSION}"`, `-D${define}`];
  await promisify(execFile)('musl-gcc', [...flags, '-o', agent, ...sources]);
  const entries = writeCpio([
    { type: 'directory', path: 'bin' },
    { type: 'file', path: 'bin/banger-agent', data: await readFile(agent), mode: 0o755 },
  ]);
  await appendFile(own, entries);
  const name = `${manifest.initrd}.own`;
  const files = { ...manifest.files, [name]: await sumFile(own) };
  await writeManifest(directory, { ...manifest, name: 'blind', initrd: name, files });
}

/** `make release`: everything that is published of a version, in dist/release: packages, tarball, bill of materials, checksums. */
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { buildDeb } from '../package/deb.ts';
import { PACKAGE_VERSION, sourceDate } from '../package/identity.ts';
import { buildRpm } from './rpm.ts';
import { type Parts, renderSbom } from './sbom.ts';
import { sha256, writeSums } from './sums.ts';
import { buildTarball } from './tarball.ts';

const DIST = join(import.meta.dirname, '../../dist');
const OUTPUT = join(DIST, 'release');

const origin = { version: PACKAGE_VERSION, date: sourceDate() };
const { SIGNING_KEY } = process.env;

rmSync(OUTPUT, { recursive: true, force: true });
mkdirSync(OUTPUT, { recursive: true });
const made = [
  await buildDeb({ ...origin, output: OUTPUT, compression: 'xz' }),
  // one thread: the blocks that several make depend on their number
  await buildTarball({ ...origin, output: OUTPUT, compressor: 'xz -6 -T1' }),
];
if (spawnSync('rpmbuild', ['--version']).status === 0) made.push(await buildRpm({ ...origin, output: OUTPUT }));
else console.error('rpmbuild is not installed (apt install rpm): no RPM is made');

const sbom = join(OUTPUT, `banger-${origin.version}.spdx.json`);
const parts = JSON.parse(readFileSync(join(DIST, 'parts.json'), 'utf8')) as Parts;
const files = made.map((file) => ({ name: basename(file), sha256: sha256(file) }));
writeFileSync(sbom, renderSbom({ ...origin, parts, muslVersion: muslVersion(), files }));

const sums = writeSums(OUTPUT, [...made, sbom], SIGNING_KEY);
if (!SIGNING_KEY) console.error('SIGNING_KEY names no key: SHA256SUMS is not signed');
for (const file of [...made, sbom, ...sums]) console.log(file);

/** Of the library that fcqemu-vsock is linked with. */
function muslVersion(): string {
  const { stdout } = spawnSync('dpkg-query', ['-W', '-f', `\${Version}`, 'musl-dev'], { encoding: 'utf8' });
  return stdout || 'NOASSERTION';
}

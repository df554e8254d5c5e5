/** banger-VERSION-1.ARCH.rpm, made by rpmbuild from the same files as the Debian package. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { installedContent, layoutOf, type Origin } from '../package/content.ts';
import { DESCRIPTION, MAINTAINER } from '../package/identity.ts';
import { stage } from '../package/stage.ts';

const SPEC = join(import.meta.dirname, '../../packaging/rpm/banger.spec');
/** As Fedora lays it out: zsh of its packages looks where that of Debian looks for local files. */
const LAYOUT = { ...layoutOf('/usr'), zshDirectory: 'share/zsh/site-functions' };

export interface RpmOptions extends Origin {
  output: string;
  /** rpm's `_binary_payload`, e.g. `w0.gzdio` for no compression */
  payload?: string;
}

/** @returns path of the package */
export async function buildRpm({ output, payload = 'w6.xzdio', ...origin }: RpmOptions): Promise<string> {
  const work = mkdtempSync(join(tmpdir(), 'banger-rpm-'));
  try {
    const tree = join(work, 'tree');
    const entries = await installedContent(LAYOUT, origin);
    stage(tree, entries, origin.date);
    const files = entries.map(({ path }) => (path.startsWith('/etc/') ? `%config(noreplace) ${path}` : path));
    const spec = readFileSync(SPEC, 'utf8')
      .replaceAll('@VERSION@', origin.version)
      .replaceAll('@SUMMARY@', DESCRIPTION.split(': ').at(-1) ?? DESCRIPTION)
      .replaceAll('@PACKAGER@', MAINTAINER)
      .replaceAll('@TREE@', tree)
      .replaceAll('@FILES@', files.join('\n'));
    writeFileSync(join(work, 'banger.spec'), spec);
    const env = { ...process.env, SOURCE_DATE_EPOCH: String(Math.floor(origin.date.getTime() / 1000)) };
    const defined = [`_topdir ${join(work, 'rpm')}`, `_binary_payload ${payload}`];
    const options = ['--quiet', ...defined.flatMap((each) => ['--define', each]), '-bb', join(work, 'banger.spec')];
    execFileSync('rpmbuild', options, { env, stdio: ['ignore', 'ignore', 'inherit'] });
    const directory = join(work, 'rpm/RPMS');
    const [name] = readdirSync(directory, { recursive: true, encoding: 'utf8' }).filter((each) =>
      each.endsWith('.rpm'),
    );
    if (name === undefined) throw new Error('rpmbuild made no package');
    mkdirSync(output, { recursive: true });
    const file = join(output, name.split('/').at(-1) ?? name);
    try {
      renameSync(join(directory, name), file);
    } catch {
      writeFileSync(file, readFileSync(join(directory, name)));
    }
    return file;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

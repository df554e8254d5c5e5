/** banger-VERSION-linux-ARCH.tar.xz: what is installed, with a script that puts it where it belongs and takes it away. */
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { installedContent, layoutOf, type Origin } from '../package/content.ts';
import { stage } from '../package/stage.ts';

const PACKAGING = join(import.meta.dirname, '../../packaging/tarball');
/** The prefix that units in the archive name; the script puts another one in its place. */
const LAYOUT = layoutOf('/usr/local');
const MACHINES: Partial<Record<string, string>> = { x64: 'x86_64', arm64: 'aarch64' };

export interface TarballOptions extends Origin {
  output: string;
  /** program and level that `tar -I` takes; without it no compression */
  compressor?: string;
}

/** @returns path of the archive */
export async function buildTarball({ output, compressor, ...origin }: TarballOptions): Promise<string> {
  const name = `banger-${origin.version}-linux-${MACHINES[process.arch] ?? process.arch}`;
  const work = mkdtempSync(join(tmpdir(), 'banger-tar-'));
  try {
    const directory = join(work, name);
    const staged = join(work, 'staged');
    const entries = await installedContent(LAYOUT, origin);
    stage(staged, entries, origin.date);
    mkdirSync(directory);
    cpSync(join(staged, LAYOUT.prefix), join(directory, 'prefix'), { recursive: true, verbatimSymlinks: true });
    cpSync(join(staged, 'etc'), join(directory, 'etc'), { recursive: true });
    // the script makes the other name of the program itself: not everything that unpacks an archive keeps hard links
    rmSync(join(directory, 'prefix/bin/fcqemu'));
    copyFileSync(join(PACKAGING, 'install.sh'), join(directory, 'install.sh'));
    chmodSync(join(directory, 'install.sh'), 0o755);
    writeFileSync(
      join(directory, 'files'),
      entries.map(({ path }) => `${path.replace(LAYOUT.prefix, 'prefix')}\n`).join(''),
    );
    mkdirSync(output, { recursive: true });
    const file = join(output, `${name}.tar${compressor === undefined ? '' : '.xz'}`);
    execFileSync(
      'tar',
      [
        ...['--create', '--file', file, '--directory', work, ...(compressor === undefined ? [] : ['-I', compressor])],
        // the same bits whoever packs it, whenever
        ...['--sort=name', `--mtime=@${Math.floor(origin.date.getTime() / 1000)}`, '--owner=0', '--group=0'],
        ...['--numeric-owner', '--format=gnu', '--mode=u+rwX,go+rX,go-w', name],
      ],
      { stdio: ['ignore', 'ignore', 'inherit'] },
    );
    return file;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/**
 * What an installed banger consists of: the one list from which `make install`, the Debian package, the RPM and the tarball are
 * made, so that they cannot differ.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { completionScript } from '../../src/cli/completion/script.ts';
import { REGISTRY } from '../../src/cli/registry.ts';
import { DAEMON_MEMORY } from '../../src/client/daemon-env.ts';
import { debianChangelog } from './changelog.ts';
import { copyrightText } from './copyright.ts';
import { commandPages, pageAliases } from './manual-commands.ts';
import { formatPages } from './manual-files.ts';
import { programPages } from './manual-programs.ts';
import { renderPage } from './mdoc.ts';

const ROOT = join(import.meta.dirname, '../..');
const DIST = join(ROOT, 'dist');
const PACKAGING = join(ROOT, 'packaging');

export interface Layout {
  /** e.g. `/usr` */
  prefix: string;
  /** e.g. `/etc` */
  sysconfdir: string;
  /** where zsh looks for completions below the prefix */
  zshDirectory: string;
}

/** The way files are laid out below a prefix. */
export function layoutOf(prefix: string): Layout {
  // what belongs to the system is configured in /etc; a prefix of somebody's own keeps everything
  const ofSystem = prefix === '/usr' || prefix === '/usr/local';
  return {
    prefix,
    sysconfdir: ofSystem ? '/etc' : join(prefix, 'etc'),
    zshDirectory: prefix === '/usr' ? 'share/zsh/vendor-completions' : 'share/zsh/site-functions',
  };
}

export type Entry = { path: string } & (
  | { kind: 'file'; mode: number; content: Buffer }
  | { kind: 'copy'; mode: number; from: string }
  /** another name of a file that stands before it */
  | { kind: 'hardlink'; to: string }
  /** relative to its own directory */
  | { kind: 'symlink'; to: string }
);

/** What pages and the changelog are dated with. */
export interface Origin {
  version: string;
  /** day of the sources */
  date: Date;
}

/** Every file, sorted by path; a hard link comes after its file. */
export async function installedContent(layout: Layout, origin: Origin): Promise<Entry[]> {
  const entries = [
    ...programs(layout),
    ...units(layout),
    ...hostFiles(layout),
    ...(await completions(layout)),
    ...(await manualPages(layout, origin)),
    ...documentation(layout, origin),
  ];
  return entries.sort((one, other) => (one.path < other.path ? -1 : 1));
}

function programs({ prefix }: Layout): Entry[] {
  const bin = join(prefix, 'bin');
  return [
    { path: join(bin, 'banger'), kind: 'copy', mode: 0o755, from: join(DIST, 'banger') },
    { path: join(bin, 'fcqemu'), kind: 'hardlink', to: join(bin, 'banger') },
    // nobody calls it by hand, so it is in no PATH
    { path: join(prefix, 'lib/banger/bangernet'), kind: 'symlink', to: '../../bin/banger' },
    { path: join(bin, 'fcqemu-vsock'), kind: 'copy', mode: 0o755, from: join(DIST, 'fcqemu-vsock') },
  ];
}

function units(layout: Layout): Entry[] {
  const directory = join(layout.prefix, 'lib/systemd');
  const unit = (path: string, source: string) => text(join(directory, path), filled(`systemd/${source}`, layout));
  return [
    unit('system/bangerd.socket', 'bangerd.socket'),
    unit('system/bangerd.service', 'bangerd-system.service'),
    unit('user/bangerd.socket', 'bangerd.socket'),
    unit('user/bangerd.service', 'bangerd-user.service'),
    unit('system/bangernet.socket', 'bangernet.socket'),
    unit('system/bangernet.service', 'bangernet.service'),
  ];
}

function hostFiles(layout: Layout): Entry[] {
  const { prefix, sysconfdir } = layout;
  const file = (path: string, source: string) => text(path, filled(source, layout));
  return [
    file(join(prefix, 'lib/sysusers.d/banger.conf'), 'sysusers.conf'),
    file(join(prefix, 'lib/tmpfiles.d/banger.conf'), 'tmpfiles.conf'),
    file(join(prefix, 'lib/udev/rules.d/60-banger.rules'), 'udev.rules'),
    file(join(prefix, 'lib/systemd/network/10-banger.network'), 'networkd.network'),
    file(join(sysconfdir, 'ssh/ssh_config.d/banger.conf'), 'ssh_config.conf'),
    // linked to where AppArmor looks if that understands it: an older one would stumble over it
    file(join(prefix, 'share/banger/apparmor-profile'), 'apparmor-profile'),
  ];
}

async function completions({ prefix, zshDirectory }: Layout): Promise<Entry[]> {
  return [
    text(join(prefix, 'share/bash-completion/completions/banger'), await completionScript('bash', REGISTRY)),
    text(join(prefix, zshDirectory, '_banger'), await completionScript('zsh', REGISTRY)),
    text(join(prefix, 'share/fish/vendor_completions.d/banger.fish'), await completionScript('fish', REGISTRY)),
  ];
}

async function manualPages({ prefix }: Layout, { date }: Origin): Promise<Entry[]> {
  const directory = (section: number) => join(prefix, `share/man/man${section}`);
  const pages = [...(await commandPages()), ...programPages(), ...formatPages()];
  return [
    ...pages.map((page) =>
      compressed(join(directory(page.section), `${page.name}.${page.section}.gz`), renderPage(page, date)),
    ),
    ...pageAliases().map(
      ({ alias, page }): Entry => ({ path: join(directory(1), `${alias}.1.gz`), kind: 'symlink', to: `${page}.1.gz` }),
    ),
  ];
}

function documentation({ prefix }: Layout, { version, date }: Origin): Entry[] {
  const directory = join(prefix, 'share/doc/banger');
  const read = (name: string) => readFileSync(join(ROOT, name), 'utf8');
  return [
    text(join(directory, 'copyright'), copyrightText(readFileSync(join(DIST, 'LICENSES'), 'utf8'), musl())),
    compressed(join(directory, 'changelog.gz'), debianChangelog(read('CHANGELOG.md'), version, date)),
    compressed(join(directory, 'README.md.gz'), read('README.md')),
  ];
}

function musl(): string {
  return readFileSync(join(DIST, 'LICENSE.musl'), 'utf8');
}

/** A file of packaging/ with the places of this layout. */
function filled(source: string, { prefix }: Layout): string {
  const environment = Object.entries(DAEMON_MEMORY).map(([name, value]) => `Environment=${name}=${value}`);
  return readFileSync(join(PACKAGING, source), 'utf8')
    .replaceAll('@BINDIR@', join(prefix, 'bin'))
    .replaceAll('@LIBDIR@', join(prefix, 'lib/banger'))
    .replaceAll('@ENVIRONMENT@', environment.join('\n'));
}

function text(path: string, content: string): Entry {
  return { path, kind: 'file', mode: 0o644, content: Buffer.from(content) };
}

/** zlib writes no time and no name, so the same text is the same file. */
function compressed(path: string, content: string): Entry {
  return { path, kind: 'file', mode: 0o644, content: gzipSync(content, { level: 9 }) };
}

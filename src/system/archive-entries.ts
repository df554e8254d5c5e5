/** The entries of an archive from elsewhere, looked at before anything of it is written. */
import { dirname, join, normalize } from 'node:path';
import { BangerError } from '../errors.ts';

/** What an archive should hold, for the search and for messages. */
export interface ArchiveKind {
  /** `bundle` or `image` */
  noun: string;
  /** file that describes the rest, e.g. `bundle.json` */
  manifest: string;
  /** command that makes such archives */
  madeBy: string;
  /** setting that says where they are kept */
  setting: string;
}

export interface ArchiveEntry {
  kind: 'file' | 'directory' | 'link' | 'hardlink' | 'special';
  /** path as the archive has it, without a leading `./` */
  path: string;
  /** bytes a file has when unpacked, holes included */
  size: number;
  /** where a link leads */
  target: string | undefined;
}

const KINDS: Record<string, ArchiveEntry['kind']> = { '-': 'file', d: 'directory', l: 'link', h: 'hardlink' };

/** Nothing banger exports comes near these; they bound what listing and hashing cost. */
const MAX_ENTRIES = 200_000;
const MAX_APPARENT_BYTES = 1024 ** 4;

/**
 * Reads the output of `tar --list --verbose --numeric-owner --full-time --quoting-style=escape`.
 * @throws BangerError `corrupt` when a line is none of an entry
 */
export function parseListing(text: string): ArchiveEntry[] {
  const entries: ArchiveEntry[] = [];
  for (const line of text.split('\n')) {
    if (line === '') continue;
    const match = /^(\S)\S{9}[.+]? +\S+ +(\d+)(,\d+)? +\d{4}-\d\d-\d\d \d\d:\d\d:\S+ (.+)$/.exec(line);
    if (!match) throw new BangerError('corrupt', `The archive has an entry tar describes as ${JSON.stringify(line)}.`);
    const kind = KINDS[match[1] ?? ''] ?? 'special';
    const separator = kind === 'link' ? ' -> ' : kind === 'hardlink' ? ' link to ' : undefined;
    const [name = '', target] = separator === undefined ? [match[4]] : splitOnce(match[4] ?? '', separator);
    entries.push({ kind, path: name.replace(/^(\.\/)+/, '').replace(/\/$/, ''), size: Number(match[2]), target });
  }
  return entries;
}

/**
 * Refuses what nothing banger exports holds: paths and links that lead out, devices, and more than any machine unpacks.
 * @returns the directory inside the archive that holds the manifest, `''` when it is the top
 * @throws BangerError `corrupt` with the entry
 */
export function checkEntries(entries: readonly ArchiveEntry[], file: string, kind: ArchiveKind): string {
  const hint = `Import only archives made by: ${kind.madeBy}`;
  const refuse = (entry: ArchiveEntry, why: string) =>
    new BangerError('corrupt', `${file}: the entry ${JSON.stringify(entry.path)} ${why}.`, { hint });
  if (entries.length > MAX_ENTRIES) {
    throw new BangerError('corrupt', `${file} has too many entries: this is no ${kind.noun}.`, { hint });
  }
  let bytes = 0;
  for (const entry of entries) {
    if (entry.path.startsWith('/') || entry.path.split('/').includes('..'))
      throw refuse(entry, `leads out of the ${kind.noun}`);
    if (entry.kind === 'special') throw refuse(entry, 'is a device or another special file');
    if (entry.kind === 'hardlink') throw refuse(entry, 'is a hard link');
    if (entry.kind === 'link' && (entry.target === undefined || leadsOut(entry.path, entry.target))) {
      throw refuse(entry, `is a link to ${entry.target}, outside the ${kind.noun}`);
    }
    bytes += entry.size;
    if (bytes > MAX_APPARENT_BYTES) throw refuse(entry, `is larger than any ${kind.noun}`);
  }
  const isManifest = ({ kind: type, path }: ArchiveEntry) =>
    type === 'file' && (path === kind.manifest || path.split('/').slice(1).join('/') === kind.manifest);
  const manifests = entries.filter(isManifest).map(({ path }) => path);
  const top = manifests.map((path) => path.slice(0, -kind.manifest.length).replace(/\/$/, '')).sort()[0];
  if (top !== undefined) return top;
  throw new BangerError('corrupt', `${file} holds no ${kind.manifest}.`, { hint });
}

/** Whether a link's target, read from where the link lies, is outside the tree it lies in. */
export function leadsOut(path: string, target: string): boolean {
  if (target.startsWith('/')) return true;
  const led = normalize(join(dirname(path), target));
  return led === '..' || led.startsWith('../');
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + separator.length)];
}

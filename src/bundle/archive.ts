/** The entries of a bundle's archive, looked at before anything of it is written. */
import { BangerError } from '../errors.ts';
import { leadsOut } from './verify.ts';

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

/** No bundle comes near these; they bound what listing and hashing cost. */
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
 * Refuses what no bundle holds: paths and links that lead out, devices, and more than any machine unpacks.
 * @returns the directory inside the archive that holds bundle.json, `''` when it is the top
 * @throws BangerError `corrupt` with the entry
 */
export function checkEntries(entries: readonly ArchiveEntry[], file: string): string {
  const refuse = (entry: ArchiveEntry, why: string) =>
    new BangerError('corrupt', `${file}: the entry ${JSON.stringify(entry.path)} ${why}.`, {
      hint: 'Import only archives made by: banger bundle export',
    });
  if (entries.length > MAX_ENTRIES) throw new BangerError('corrupt', `${file} has too many entries to be a bundle.`);
  let bytes = 0;
  for (const entry of entries) {
    if (entry.path.startsWith('/') || entry.path.split('/').includes('..'))
      throw refuse(entry, 'leads out of the bundle');
    if (entry.kind === 'special') throw refuse(entry, 'is a device or another special file');
    if (entry.kind === 'hardlink') throw refuse(entry, 'is a hard link');
    if (entry.kind === 'link' && (entry.target === undefined || leadsOut(entry.path, entry.target))) {
      throw refuse(entry, `is a link to ${entry.target}, outside the bundle`);
    }
    bytes += entry.size;
    if (bytes > MAX_APPARENT_BYTES) throw refuse(entry, 'is larger than any bundle');
  }
  const manifests = entries.filter((entry) => entry.kind === 'file' && /^([^/]+\/)?bundle\.json$/.test(entry.path));
  const top = manifests.map((entry) => entry.path.slice(0, -'bundle.json'.length).replace(/\/$/, '')).sort()[0];
  if (top === undefined) {
    throw new BangerError('corrupt', `${file} holds no bundle.json.`, {
      hint: 'Import only archives made by: banger bundle export',
    });
  }
  return top;
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + separator.length)];
}

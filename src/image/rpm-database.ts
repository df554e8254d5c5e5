/**
 * The packages of rpm's database in SQLite, which may be anybody's: nothing is asked of it that its structure could make long.
 * Header format: rpm, docs/manual/format_header.md.
 */
import { DatabaseSync } from 'node:sqlite';
import type { InstalledPackage } from '../core/packages.ts';
import { BangerError, messageOf } from '../errors.ts';

/** More than any distribution has. */
const MAX_PACKAGES = 200_000;
/** A table of plain columns and nothing that is computed. */
const PLAIN_TABLE = /^CREATE TABLE ['"]?Packages['"]? ?\([\w\s,]{1,200}\)$/;
const TAGS = { name: 1000, version: 1001, release: 1002, epoch: 1003, arch: 1022 } as const;
const ENTRY_BYTES = 16;
const INT32 = 4;

/** @throws BangerError `corrupt` for a database that is damaged, or none of rpm's */
export function readRpmDatabase(path: string): InstalledPackage[] {
  try {
    using database = new DatabaseSync(path, { readOnly: true });
    database.exec('PRAGMA trusted_schema = OFF');
    // pages that lead in circles end here
    const [check] = database.prepare('PRAGMA quick_check(1)').all();
    if (check?.quick_check !== 'ok') throw wrong(String(check?.quick_check));
    const table = database.prepare("SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = 'Packages'").get();
    if (!PLAIN_TABLE.test(String(table?.sql))) throw wrong('it has no table of packages');
    const rows = database.prepare(`SELECT blob FROM Packages LIMIT ${MAX_PACKAGES}`).all();
    return rows.flatMap(({ blob }) => (blob instanceof Uint8Array ? (readHeader(Buffer.from(blob)) ?? []) : []));
  } catch (error) {
    throw error instanceof BangerError ? error : wrong(messageOf(error));
  }
}

/** Undefined for keys, which are kept like packages. */
export function readHeader(blob: Buffer): InstalledPackage | undefined {
  if (blob.length < 8) throw wrong('a header is cut short');
  const entries = blob.readUInt32BE(0);
  const dataAt = 8 + entries * ENTRY_BYTES;
  if (dataAt + blob.readUInt32BE(4) > blob.length) throw wrong('a header is cut short');
  const values = new Map<number, { type: number; at: number }>();
  for (let index = 0; index < entries; index++) {
    const at = 8 + index * ENTRY_BYTES;
    values.set(blob.readInt32BE(at), { type: blob.readUInt32BE(at + 4), at: dataAt + blob.readUInt32BE(at + 8) });
  }
  const text = (tag: number) => {
    const at = values.get(tag)?.at;
    if (at === undefined) return '';
    const end = blob.indexOf(0, at);
    return blob.toString('utf8', at, end < 0 ? at : end);
  };
  const epoch = values.get(TAGS.epoch);
  const hasEpoch = epoch?.type === INT32 && epoch.at + 4 <= blob.length && blob.readUInt32BE(epoch.at) !== 0;
  const [name, version, release, arch] = [text(TAGS.name), text(TAGS.version), text(TAGS.release), text(TAGS.arch)];
  if (name === '' || version === '' || arch === '') return undefined;
  const prefix = hasEpoch ? `${blob.readUInt32BE(epoch.at)}:` : '';
  return { name, version: `${prefix}${version}${release === '' ? '' : `-${release}`}`, arch };
}

function wrong(why: string): BangerError {
  return new BangerError('corrupt', `The database of rpm cannot be read: ${why}.`);
}

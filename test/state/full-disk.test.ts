import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, it, type TestContext } from 'node:test';
import { createBallast } from '../../src/state/ballast.ts';
import { type Database, inTransaction, openDatabase } from '../../src/state/database.ts';
import { createSettings } from '../../src/state/settings.ts';
import { tempDir } from '../support/temp-dir.ts';

const source = (path: string) => JSON.stringify(new URL(`../../src/${path}`, import.meta.url));

/** On a file system of its own, which it fills: writes with a ballast, without any, and after room was made. */
const ON_FULL_DISK = `
import { openSync, writeSync, closeSync, rmSync, statSync } from 'node:fs';
import { createBallast } from ${source('state/ballast.ts')};
import { openDatabase, inTransaction } from ${source('state/database.ts')};
import { createSettings } from ${source('state/settings.ts')};
const dir = process.argv[1];
const path = dir + '/banger.db';
const seen = {};
const fill = () => {
  const fd = openSync(dir + '/fill', 'a');
  for (const size of [65536, 4096, 512]) try { for (;;) writeSync(fd, Buffer.alloc(size, 1)); } catch (error) { seen.full = error.code; }
  closeSync(fd);
};
const attempt = (work) => { try { return work() ?? 'done'; } catch (error) { return { code: error.code, message: error.message, hint: error.hint }; } };
const ballast = createBallast(path + '.ballast');
let database = openDatabase(path, 'durable', ballast);
seen.made = await ballast.restore();
fill();
const before = statSync(path + '.ballast').size;
let settings = createSettings(database);
seen.writes = attempt(() => { for (let n = 0; n < 20; n++) settings.set('key' + n, 'x'.repeat(3000)); });
seen.transaction = attempt(() => inTransaction(database, () => { for (let n = 0; n < 20; n++) settings.set('other' + n, 'y'.repeat(20000)); }));
seen.givenUp = before - statSync(path + '.ballast').size;
seen.notRestored = await ballast.restore().catch((error) => error.code);
database.close();
fill();
database = openDatabase(path, 'durable', ballast);
settings = createSettings(database);
seen.kept = settings.get('key19')?.length;
let rounds = 0;
const exhausted = attempt(() => { for (; rounds < 1000; rounds++) settings.set('more' + rounds, 'z'.repeat(20000)); });
seen.exhausted = exhausted;
seen.empty = statSync(path + '.ballast').size;
seen.inTransaction = attempt(() => inTransaction(database, () => { settings.set('a', 'b'.repeat(50000)); settings.set('b', 'b'.repeat(50000)); }));
seen.nothingHalf = settings.get('a') ?? 'nothing';
rmSync(dir + '/fill');
seen.after = attempt(() => settings.set('after', 'room'));
seen.again = await ballast.restore();
process.stdout.write(JSON.stringify(seen));
`;

describe('a database on a full disk', () => {
  it('gives up the ballast for writes, says where there is no room after that, and makes it again', async (t) => {
    const seen = await onSmallDisk(t, ON_FULL_DISK);
    if (!seen) return;
    assert.equal(seen.full, 'ENOSPC');
    assert.deepEqual([seen.made, seen.writes, seen.transaction], [true, 'done', 'done']);
    assert.ok(Number(seen.givenUp) > 0 && Number(seen.givenUp) < 2 * 1024 * 1024, `${seen.givenUp} bytes at once`);
    assert.equal(seen.notRestored, false);
    assert.equal(seen.kept, 3000);
    assert.equal(seen.empty, 0);
    const { code, message, hint } = seen.exhausted as Record<string, string>;
    assert.equal(code, 'host_unprepared');
    assert.match(message ?? '', /^There is no room on the disk to write to \/.*banger\.db\.$/);
    assert.match(hint ?? '', /^See what is full: df -h \/.* Make room with: banger gc/);
    assert.equal((seen.inTransaction as Record<string, string>).code, 'host_unprepared');
    assert.deepEqual([seen.nothingHalf, seen.after, seen.again], ['nothing', 'done', true]);
  });

  it('writes again by itself what SQLite rolled back, and tells nothing else apart', () => {
    const { database, given } = limited(2);
    const settings = createSettings(database);
    settings.set('large', 'x'.repeat(20_000));
    assert.equal(given.length, 1);
    inTransaction(database, () => {
      settings.set('larger', 'y'.repeat(150_000));
      settings.set('last', 'z');
    });
    assert.equal(given.length, 2);
    assert.deepEqual([settings.get('larger')?.length, settings.get('last')], [150_000, 'z']);
    assert.throws(() => settings.set('largest', 'y'.repeat(2_000_000)), { code: 'host_unprepared' });
    assert.throws(() => inTransaction(database, () => assert.fail('mine')), { message: 'mine' });
    assert.equal(database.isTransaction, false);
  });
});

describe('the ballast', () => {
  it('is made once, given up slice by slice, and made again', async (t) => {
    const path = join(await tempDir(t), 'ballast');
    const ballast = createBallast(path);
    assert.equal(ballast.giveUp(), false);
    assert.equal(await ballast.restore(), true);
    assert.equal(await ballast.restore(), false);
    const { size, blocks } = await stat(path);
    assert.ok(blocks * 512 >= size, 'it has no holes');
    let slices = 0;
    while (ballast.giveUp()) slices++;
    assert.ok(slices >= 8, `${slices} slices`);
    assert.equal((await stat(path)).size, 0);
    await writeFile(path, 'short');
    assert.equal(await ballast.restore(), true);
    assert.equal((await stat(path)).size, size);
  });
});

/** A database that may not grow, and a ballast of which each slice lets it grow by 40 pages. */
function limited(slices: number): { database: Database; given: number[] } {
  const given: number[] = [];
  const database = openDatabase(':memory:', 'durable', {
    giveUp() {
      if (given.length >= slices) return false;
      given.push(pages() + 40);
      database.exec(`PRAGMA max_page_count = ${pages() + 40}`);
      return true;
    },
  });
  const pages = () => Number(database.prepare('PRAGMA page_count').get()?.page_count);
  database.exec(`PRAGMA max_page_count = ${pages()}`);
  return { database, given };
}

/** Runs a program with a directory of 48 MiB; undefined, and skipped, where none can be mounted. */
async function onSmallDisk(t: TestContext, program: string): Promise<Record<string, unknown> | undefined> {
  const dir = await tempDir(t);
  const image = join(dir, 'image');
  await writeFile(image, '');
  const script = [
    'truncate -s 48M "$1"',
    'mke2fs -q -F -t ext4 -m 0 "$1"',
    'mkdir "$2" && mount -o loop "$1" "$2" || exit 77',
    '"$3" --input-type=module --eval "$4" "$2"',
  ].join('\n');
  const argv = ['-m', 'sh', '-e', '-c', script, 'sh', image, join(dir, 'disk'), process.execPath, program];
  const child = spawn('unshare', argv, { env: { ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` } });
  const [output, errors] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  if (child.exitCode === 77 || /unshare failed/.test(errors)) {
    t.skip(`no file system can be mounted here: ${errors.trim()}`);
    return undefined;
  }
  assert.equal(child.exitCode, 0, errors);
  return JSON.parse(output);
}

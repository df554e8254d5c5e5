import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { describe, it, type TestContext } from 'node:test';
import { openDatabase } from '../../src/state/database.ts';
import { createImageStore } from '../../src/state/images.ts';
import { createLedger } from '../../src/state/ledger.ts';
import { createSettings } from '../../src/state/settings.ts';
import { createVmStore } from '../../src/state/vms.ts';
import { sampleVm } from '../support/sample-vm.ts';
import { tempDir } from '../support/temp-dir.ts';

/** Schema 1 as banger 0.1's first databases have it, with a VM, its ledger, an operation and a setting. */
const SCHEMA_1 = `
  CREATE TABLE vms (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, image TEXT NOT NULL, vcpus INTEGER NOT NULL,
    memory_mib INTEGER NOT NULL, root_disk_bytes INTEGER NOT NULL, work_disk_bytes INTEGER NOT NULL,
    address TEXT NOT NULL UNIQUE, mac TEXT NOT NULL, nat INTEGER NOT NULL, host_key_private TEXT NOT NULL,
    host_key_public TEXT NOT NULL, created_at TEXT NOT NULL, phase TEXT NOT NULL, failure TEXT, started_at TEXT,
    vmm TEXT, boot_timeline TEXT NOT NULL DEFAULT '[]', boot_ms REAL
  ) STRICT;
  CREATE TABLE ledger (
    id INTEGER PRIMARY KEY, vm_id TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
    detail TEXT NOT NULL DEFAULT '{}', created_at TEXT NOT NULL, UNIQUE (kind, name)
  ) STRICT;
  CREATE INDEX ledger_by_vm ON ledger (vm_id);
  CREATE TABLE operations (
    id TEXT PRIMARY KEY, kind TEXT NOT NULL, target TEXT NOT NULL, state TEXT NOT NULL, created_at TEXT NOT NULL,
    finished_at TEXT, error TEXT
  ) STRICT;
  CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
  INSERT INTO vms VALUES ('5f3a9c01', 'web', 'debian-bookworm', 2, 512, 8589934592, 8589934592, '172.30.0.2',
    '06:00:ac:1e:00:02', 1, 'private', 'ssh-ed25519 AAAA', '2026-11-23T00:00:00.000Z', 'stopped', NULL, NULL, NULL,
    '[{"step":"boot-guest","startedMs":1,"durationMs":2}]', 9500);
  INSERT INTO ledger VALUES (1, '5f3a9c01', 'directory', '/store/vms/5f3a9c01', '{}', '2026-11-23T00:00:00.000Z');
  INSERT INTO operations VALUES ('a1', 'vm.start', 'web', 'succeeded', '2026-11-23T00:00:00.000Z', NULL, NULL);
  INSERT INTO settings VALUES ('network.pool', '172.30.0.0/16');
  PRAGMA user_version = 1;
`;

async function oldDatabase(t: TestContext): Promise<string> {
  const path = join(await tempDir(t), 'banger.db');
  const database = new DatabaseSync(path);
  database.exec(`PRAGMA journal_mode = WAL; ${SCHEMA_1}`);
  database.close();
  return path;
}

/** Everything a person had, with what later versions say about it. */
function assertUpgraded(path: string): void {
  const database = openDatabase(path);
  const bootTimeline = [{ step: 'boot-guest', startedMs: 1, durationMs: 2 }];
  const expected = sampleVm({ bootTimeline, bootMs: 9500 });
  assert.deepEqual(createVmStore(database).list(), [expected]);
  assert.deepEqual(
    { imageId: expected.imageId, autostart: expected.autostart, policy: expected.restartPolicy },
    { imageId: null, autostart: false, policy: 'never' },
  );
  assert.equal(expected.workDiskMount, '/root');
  assert.deepEqual(createLedger(database).of('5f3a9c01'), [{ kind: 'directory', name: '/store/vms/5f3a9c01' }]);
  assert.equal(createSettings(database).get('network.pool'), '172.30.0.0/16');
  assert.deepEqual(createImageStore(database).list(), []);
  assert.equal(database.prepare('SELECT count(*) AS n FROM operations').get()?.n, 1);
  database.close();
}

function read(path: string, sql: string): unknown {
  const database = new DatabaseSync(path);
  const row = database.prepare(sql).get();
  database.close();
  return Object.values(row ?? {})[0];
}

describe('a database of an older banger', () => {
  it('is brought forward with every row, and kept as it was beside the new one', async (t) => {
    const path = await oldDatabase(t);
    assertUpgraded(path);
    assert.equal(read(`${path}.schema-1`, 'PRAGMA user_version'), 1);
    assert.equal(read(`${path}.schema-1`, 'SELECT name FROM vms'), 'web');
    assertUpgraded(path);
  });

  it('of schema 2 has its images’ sums named as what they are', async (t) => {
    const path = await oldDatabase(t);
    openDatabase(path).close();
    const old = new DatabaseSync(path);
    old.exec(`
      ALTER TABLE images RENAME COLUMN digest TO sha256;
      ALTER TABLE vms DROP COLUMN last_end;
      ALTER TABLE vms DROP COLUMN temporary;
      ALTER TABLE vms DROP COLUMN memory;
      ALTER TABLE vms DROP COLUMN paused;
      ALTER TABLE vms DROP COLUMN machine_id;
      ALTER TABLE vms DROP COLUMN idle_suspend_ms;
      ALTER TABLE vms DROP COLUMN awake_until;
      DROP TABLE snapshots;
      ALTER TABLE vms DROP COLUMN forked_from;
      ALTER TABLE vms DROP COLUMN user_id;
      DROP TABLE templates;
      ALTER TABLE vms DROP COLUMN process;
      ALTER TABLE layers DROP COLUMN machine;
      ALTER TABLE layers DROP COLUMN unsynced_boot;
      ALTER TABLE vms DROP COLUMN ready;
      INSERT INTO images VALUES ('0a0b0c0d', 'dev', 'x86_64', 'debian-bookworm', '${'ab'.repeat(32)}', 4096, '{}', 'key',
        '2026-11-25T00:00:00.000Z');
      PRAGMA user_version = 2;`);
    old.close();
    const database = openDatabase(path);
    t.after(() => database.close());
    assert.deepEqual(
      createImageStore(database)
        .list()
        .map(({ name, digest, sizeBytes, recipeKey }) => ({ name, digest, sizeBytes, recipeKey })),
      [{ name: 'dev', digest: `sha256:${'ab'.repeat(32)}`, sizeBytes: 4096, recipeKey: 'key' }],
    );
  });

  it('can be put back from its backup by the command of the hint, for the older banger', async (t) => {
    const path = await oldDatabase(t);
    openDatabase(path).close();
    const newer = new DatabaseSync(path);
    newer.exec('PRAGMA user_version = 77');
    newer.close();
    let hint = '';
    assert.throws(
      () => openDatabase(path),
      (error: Error & { code?: string; hint?: string }) => {
        hint = error.hint ?? '';
        return error.code === 'conflict' && /schema 77; this banger reads up to \d+/.test(error.message);
      },
    );
    const command = /since: (rm .*)\.$/.exec(hint)?.[1] ?? '';
    assert.match(command, /banger\.db\.schema-1 /);
    assert.equal(spawnSync('sh', ['-c', command]).status, 0);
    assertUpgraded(path);
  });

  it('is as it was when a step fails, says so, and is brought forward at the next try', async (t) => {
    const path = await oldDatabase(t);
    const blocked = new DatabaseSync(path);
    blocked.exec('CREATE TABLE layers (mine TEXT)'); // the last of what the step makes
    blocked.close();
    assert.throws(() => openDatabase(path), {
      code: 'host_unprepared',
      message: /from schema 1 to \d+: .*layers.*Nothing is lost/,
      hint: /banger daemon start/,
    });
    assert.equal(read(path, 'PRAGMA user_version'), 1);
    assert.equal(read(path, "SELECT count(*) FROM pragma_table_info('vms') WHERE name = 'autostart'"), 0);
    const freed = new DatabaseSync(path);
    freed.exec('DROP TABLE layers');
    freed.close();
    assertUpgraded(path);
  });

  it('is as it was when the daemon is killed in the middle, and a half-written backup is replaced', async (t) => {
    const path = await oldDatabase(t);
    await writeFile(`${path}.schema-1`, 'half of a backup');
    const script = `
      const { DatabaseSync } = require('node:sqlite');
      const database = new DatabaseSync(${JSON.stringify(path)});
      database.exec("BEGIN IMMEDIATE; ALTER TABLE vms ADD COLUMN image_id TEXT; DELETE FROM settings");
      process.kill(process.pid, 'SIGKILL');`;
    assert.equal(spawnSync(process.execPath, ['--eval', script]).signal, 'SIGKILL');
    assertUpgraded(path);
    assert.equal(read(`${path}.schema-1`, 'SELECT name FROM vms'), 'web');
  });

  it('is refused without a word about a backup that is not there', async (t) => {
    const path = join(await tempDir(t), 'banger.db');
    const newer = new DatabaseSync(path);
    newer.exec('PRAGMA user_version = 99');
    newer.close();
    assert.equal(existsSync(`${path}.schema-1`), false);
    assert.throws(() => openDatabase(path), { hint: /^Install a banger that reads schema 99\.$/ });
  });
});

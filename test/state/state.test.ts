import assert from 'node:assert/strict';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { describe, it } from 'node:test';
import { inTransaction, openDatabase } from '../../src/state/database.ts';
import { createLedger } from '../../src/state/ledger.ts';
import { createOperationStore } from '../../src/state/operations.ts';
import { createSettings } from '../../src/state/settings.ts';
import { createVmStore } from '../../src/state/vms.ts';
import { sampleVm } from '../support/sample-vm.ts';
import { tempDir } from '../support/temp-dir.ts';

describe('database', () => {
  it('opens again what it wrote', async (t) => {
    const path = join(await tempDir(t), 'banger.db');
    const first = openDatabase(path);
    createVmStore(first).insert(sampleVm());
    first.close();
    const second = openDatabase(path);
    assert.deepEqual(createVmStore(second).get('web'), sampleVm());
    second.close();
  });

  it('refuses one that a newer banger wrote and names the versions', async (t) => {
    const path = join(await tempDir(t), 'banger.db');
    const newer = new DatabaseSync(path);
    newer.exec('PRAGMA user_version = 99');
    newer.close();
    assert.throws(() => openDatabase(path), { code: 'conflict', message: /schema 99; this banger reads up to \d+/ });
  });

  it('says so when the file is no database', async (t) => {
    const path = join(await tempDir(t), 'banger.db');
    await (await import('node:fs/promises')).writeFile(
      path,
      'this is no database at all, whatever its name says\n'.repeat(50),
    );
    assert.throws(() => openDatabase(path), { code: 'corrupt', message: /banger\.db cannot be opened/ });
  });

  it('leaves no backup beside a new database', async (t) => {
    const dir = await tempDir(t);
    openDatabase(join(dir, 'banger.db')).close();
    assert.deepEqual(await readdir(dir), ['banger.db']);
  });
});

describe('VM store', () => {
  it('keeps a record as it was given, and its changes', () => {
    const vms = createVmStore(openDatabase(':memory:'));
    vms.insert(sampleVm());
    const timeline = [{ step: 'boot-guest', startedMs: 1, durationMs: 2 }];
    vms.update('5f3a9c01', { phase: 'running', nat: false, bootTimeline: timeline, bootMs: 3 });
    assert.deepEqual(vms.get('web'), sampleVm({ phase: 'running', nat: false, bootTimeline: timeline, bootMs: 3 }));
    vms.remove('5f3a9c01');
    assert.deepEqual(vms.list(), []);
  });

  it('refuses a taken name with the command that helps', () => {
    const vms = createVmStore(openDatabase(':memory:'));
    vms.insert(sampleVm());
    assert.throws(() => vms.insert(sampleVm({ id: 'ffffffff', address: '172.30.0.9' })), {
      code: 'conflict',
      message: 'A VM named "web" exists already.',
      hint: /banger start web/,
    });
  });

  it('renames unless the name is taken', () => {
    const vms = createVmStore(openDatabase(':memory:'));
    vms.insert(sampleVm());
    vms.insert(sampleVm({ id: 'ffffffff', name: 'db', address: '172.30.0.9' }));
    assert.throws(() => vms.update('ffffffff', { name: 'web' }), { code: 'conflict', message: /"web" exists already/ });
    vms.update('ffffffff', { name: 'data' });
    assert.deepEqual(
      vms.list().map(({ name }) => name),
      ['data', 'web'],
    );
  });

  it('tells of every change, whatever a listener throws, until told to stop', () => {
    const errors: string[] = [];
    const vms = createVmStore(openDatabase(':memory:'), (error) => errors.push(error));
    vms.onChange(() => {
      throw new Error('a listener that fails');
    });
    const seen: string[] = [];
    const end = vms.onChange(({ before, after }) => seen.push(`${before?.phase} to ${after?.phase}`));
    vms.insert(sampleVm());
    vms.update('5f3a9c01', { phase: 'running' });
    vms.update('00000000', { phase: 'running' });
    vms.remove('5f3a9c01');
    end();
    vms.insert(sampleVm());
    assert.deepEqual(seen, ['undefined to stopped', 'stopped to running', 'running to undefined']);
    assert.deepEqual(new Set(errors), new Set(['a listener that fails']));
  });

  it('names what it does not know', () => {
    const vms = createVmStore(openDatabase(':memory:'));
    assert.throws(() => vms.get('nope'), { code: 'not_found', message: /"nope"/ });
    assert.equal(vms.find('nope'), undefined);
  });
});

describe('ledger', () => {
  it('gives back each resource with its details until it is struck', () => {
    const ledger = createLedger(openDatabase(':memory:'));
    const identity = { pid: 7, startTicks: 8, bootId: 'b' };
    ledger.record('vm1', { kind: 'vmm', name: '/run/x.sock' });
    ledger.record('vm1', { kind: 'vmm', name: '/run/x.sock', identity });
    ledger.record('vm2', { kind: 'tap', name: 'bgr-2' });
    assert.deepEqual(ledger.of('vm1'), [{ kind: 'vmm', name: '/run/x.sock', identity }]);
    assert.equal(ledger.all().length, 2);
    ledger.strike('vmm', '/run/x.sock');
    ledger.strike('vmm', '/run/x.sock');
    assert.deepEqual(ledger.of('vm1'), []);
  });

  it('need not be on the disk before what the host loses with its power, and must before everything else', (t) => {
    const database = openDatabase(':memory:');
    const ledger = createLedger(database);
    const level = () => Number(database.prepare('PRAGMA synchronous').get()?.synchronous);
    const [normal, full] = [1, 2];
    const changes = t.mock.method(database, 'exec');
    const levels = () => {
      const said = changes.mock.calls.map(({ arguments: [sql] }) => sql);
      changes.mock.resetCalls();
      return said;
    };
    const lowered = ['PRAGMA synchronous = NORMAL', 'PRAGMA synchronous = FULL'];
    assert.equal(level(), full);
    for (const kind of ['tap', 'vmm', 'cgroup'] as const) {
      ledger.record('vm1', { kind, name: 'x' });
      ledger.strike(kind, 'x');
      assert.deepEqual(levels(), [...lowered, ...lowered], kind);
    }
    ledger.record('vm1', { kind: 'directory', name: '/store/vms/vm1' });
    ledger.strike('directory', '/store/vms/vm1');
    inTransaction(database, () => ledger.record('vm1', { kind: 'tap', name: 'bgr-1' }));
    assert.deepEqual(levels(), ['BEGIN IMMEDIATE', 'COMMIT'], 'it is synced with the transaction');
    assert.equal(level(), full);
    assert.equal(database.unsynced(level), normal);
  });
});

describe('operation store', () => {
  it('marks what a dead daemon left running', () => {
    const store = createOperationStore(openDatabase(':memory:'));
    const base = { kind: 'vm.start', step: null, finishedAt: null, error: null, state: 'running' } as const;
    store.insert({ ...base, id: 'a', target: 'web', createdAt: '2026-01-01T00:00:00.000Z' });
    store.insert({ ...base, id: 'b', target: 'db', createdAt: '2026-01-02T00:00:00.000Z' });
    store.finish('a', 'succeeded', '2026-01-01T00:00:05.000Z', null);
    assert.equal(store.interruptRunning('2026-01-03T00:00:00.000Z'), 1);
    assert.deepEqual(
      store.recent(10).map(({ id, state }) => [id, state]),
      [
        ['b', 'interrupted'],
        ['a', 'succeeded'],
      ],
    );
  });
});

describe('settings', () => {
  it('keep the last value', () => {
    const settings = createSettings(openDatabase(':memory:'));
    assert.equal(settings.get('x'), undefined);
    settings.set('x', '1');
    settings.set('x', '2');
    assert.equal(settings.get('x'), '2');
  });
});

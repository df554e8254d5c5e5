import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { cli, done, operation, type Script, snapshot, vm } from './cli.ts';

/** A daemon that notes what it is asked and answers with this result. */
function daemon(result: unknown) {
  const asked: unknown[] = [];
  const note = (route: string) => (args: object) => {
    asked.push([route, args]);
    return operation();
  };
  const routes = ['create', 'restore', 'copy', 'diff', 'export', 'delete'].map((verb) => `${verb}Snapshot`);
  const script = Object.fromEntries([...routes, 'importSnapshot', 'undoRestore'].map((route) => [route, note(route)]));
  return { asked, script: { ...script, events: { op1: [done({ result })] } } as Script };
}

describe('snapshot create', () => {
  it('says its name, what it takes and for how long the guest stood still', async () => {
    const { asked, script } = daemon(snapshot('20260102-030405', { taken: 'frozen', pauseMs: 83 }));
    const { stdout, stderr } = await cli('snapshot create web --disk-only', script);
    assert.equal(stdout, '20260102-030405 is a snapshot of web (300 MiB); its guest could not write for 83 ms\n');
    assert.match(stderr, /Put it back with: banger snapshot restore web 20260102-030405/);
    await cli('snapshot create web before --pause-ok', script);
    assert.deepEqual(asked, [
      ['createSnapshot', { params: { name: 'web' }, body: { diskOnly: true } }],
      ['createSnapshot', { params: { name: 'web' }, body: { name: 'before', pauseOk: true } }],
    ]);
  });
});

describe('a snapshot with memory', () => {
  it('is told apart when it is taken, put back and made a VM of', async () => {
    const { script } = daemon(snapshot('first', { memory: true, taken: 'held', pauseMs: 150 }));
    assert.equal(
      (await cli('snapshot create web first', script)).stdout,
      'first is a snapshot of web with its memory (300 MiB); its guest stood still for 150 ms\n',
    );
    const asleep = daemon({ vm: vm('web', { state: 'suspended' }), before: 'before-1' });
    assert.equal(
      (await cli('snapshot restore web first --no-start', asleep.script)).stdout,
      'web has the disks of first again with its memory, and is suspended\n',
    );
    const copied = daemon(vm('other', { address: '172.30.0.9' }));
    assert.equal(
      (await cli('snapshot restore web first --as other --disk-only', copied.script)).stdout,
      'other goes on from first of web, at 172.30.0.9\n',
    );
    assert.deepEqual(copied.asked, [
      ['copySnapshot', { params: { name: 'web', snapshot: 'first' }, body: { name: 'other', diskOnly: true } }],
    ]);
  });
});

describe('snapshot list and show', () => {
  const script: Script = {
    listSnapshots: ({ query }) =>
      query?.vm === 'none' ? [] : [snapshot('first'), snapshot('before-1', { automatic: true, memory: true })],
    showSnapshot: () => snapshot('first', { taken: 'frozen', pauseMs: 83 }),
  };

  it('tell automatic ones and those with memory from others', async () => {
    assert.equal(
      (await cli('snapshot ls web', script)).stdout,
      `VM   SNAPSHOT  TAKEN                 OF                        USED     IMAGE
web  first     2026-01-02T03:04:05Z  disks                     300 MiB  debian-bookworm
web  before-1  2026-01-02T03:04:05Z  disks, memory, automatic  300 MiB  debian-bookworm
`,
    );
    assert.match((await cli('snapshot list none', script)).stderr, /Take one with: banger snapshot create NAME/);
    assert.match(
      (await cli('snapshot show web first', script)).stdout,
      /^taken .*its guest could not write for 83 ms$/m,
    );
  });
});

describe('snapshot restore', () => {
  it('says how it is undone, in place; as a new VM, how that is started', async () => {
    const { asked, script } = daemon({ vm: vm('web'), before: 'before-20260102-030405' });
    const { stdout, stderr } = await cli('snapshot restore web first --force', script);
    assert.equal(stdout, 'web has the disks of first again, and runs\n');
    // it runs, so that it has to be shut down for that
    assert.match(stderr, /What was there is before-20260102-030405; .*banger snapshot undo web --force$/m);
    await cli('snapshot undo web --force --no-start', script);
    const copied = daemon(vm('old', { state: 'stopped' }));
    assert.match(
      (await cli('snapshot restore web first --as old', copied.script)).stdout,
      /^old has the disks of first/,
    );
    assert.deepEqual(
      [...asked, ...copied.asked],
      [
        ['restoreSnapshot', { params: { name: 'web', snapshot: 'first' }, body: { force: true } }],
        ['undoRestore', { params: { name: 'web' }, body: { force: true, start: false } }],
        ['copySnapshot', { params: { name: 'web', snapshot: 'first' }, body: { name: 'old' } }],
      ],
    );
    assert.equal((await cli('snapshot restore web first --as old --force', {})).status, 2);
  });
});

describe('snapshot diff', () => {
  it('marks what was added, removed and changed, and counts what is left out', async () => {
    const changes = [
      { disk: 'root', path: '/etc/new', change: 'added', kind: 'directory' },
      { disk: 'root', path: '/etc/old', change: 'removed', kind: 'file' },
      { disk: 'work', path: '/root/x', change: 'changed', kind: 'link' },
    ];
    const { asked, script } = daemon({ from: 'first', to: null, changes, omitted: 7 });
    const { stdout, stderr } = await cli('snapshot diff web first', script);
    assert.equal(stdout, '+ /etc/new/\n- /etc/old\n~ /root/x\n');
    assert.equal(stderr, '1 added, 1 removed, 1 changed, and 7 more that are not shown\n');
    await cli('snapshot diff web first second --pause-ok', script);
    assert.deepEqual(asked.at(-1), [
      'diffSnapshot',
      { params: { name: 'web', snapshot: 'first' }, body: { to: 'second', pauseOk: true } },
    ]);
  });
});

describe('other commands on snapshots', () => {
  it('name files from here, and delete several one after the other', async () => {
    const written = daemon({ vm: 'web', name: 'first', file: '/home/someone/project/w.tar.zst', sizeBytes: 2 ** 20 });
    const { stdout } = await cli('snapshot export web first w.tar.zst', written.script);
    assert.equal(stdout, 'first of web is in /home/someone/project/w.tar.zst (1 MiB)\n');
    const made = daemon(vm('two'));
    await cli('snapshot import w.tar.zst two --image dev', made.script);
    const deleted = daemon({});
    await cli('snapshot rm web first second first', deleted.script);
    assert.deepEqual(
      [...written.asked, ...made.asked, ...deleted.asked],
      [
        [
          'exportSnapshot',
          { params: { name: 'web', snapshot: 'first' }, body: { file: '/home/someone/project/w.tar.zst' } },
        ],
        ['importSnapshot', { body: { file: '/home/someone/project/w.tar.zst', name: 'two', image: 'dev' } }],
        ['deleteSnapshot', { params: { name: 'web', snapshot: 'first' } }],
        ['deleteSnapshot', { params: { name: 'web', snapshot: 'second' } }],
      ],
    );
  });
});

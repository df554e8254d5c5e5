import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { findGarbage, type Inventory } from '../../src/core/find-garbage.ts';

const nothing: Inventory = {
  ...{ ledger: [], vms: [], trash: [], directories: [], snapshots: [] },
  ...{ memories: [], templates: [], deadSockets: [], vmms: [], taps: [] },
};
const web = { id: 'aaaaaaaa', name: 'web', active: true };
const stopped = { id: 'bbbbbbbb', name: 'db', active: false };
const look = (seen: Partial<Inventory>) =>
  findGarbage({ ...nothing, ...seen }).map(({ kind, verdict, whose }) => `${kind} ${verdict}: ${whose}`);

describe('garbage', () => {
  it('is nothing that a VM, the trash or the host holds', () => {
    const ledger = [
      { owner: 'host', kind: 'pool-route', name: '10.0.0.0/16' },
      { owner: web.id, kind: 'tap', name: 'bgr-aaaaaaaa' },
      { owner: web.id, kind: 'vmm', name: '/run/aaaaaaaa.sock' },
      { owner: stopped.id, kind: 'directory', name: '/store/vms/bbbbbbbb' },
      { owner: 'cccccccc', kind: 'directory', name: '/store/vms/cccccccc' },
    ];
    const directories = ['aaaaaaaa', 'bbbbbbbb', 'cccccccc'].map((name) => ({
      name,
      path: `/store/vms/${name}`,
      holdsDisk: true,
    }));
    const seen = {
      ledger,
      directories,
      vms: [web, stopped],
      trash: [{ id: 'cccccccc', name: 'old' }],
      vmms: [{ pid: 7, socketPath: '/run/aaaaaaaa.sock', id: web.id }],
      taps: ['bgr-aaaaaaaa'],
    };
    assert.deepEqual(look(seen), []);
  });

  it('is a template of which there is no record', () => {
    assert.deepEqual(look({ templates: ['/store/templates/dddddddd'] }), [
      'directory free: a template of which there is no record',
    ]);
  });

  it('is memory of a VM that has none on record', () => {
    const memories = [{ path: '/store/vms/bbbbbbbb/suspended', vmId: stopped.id, name: 'db' }];
    assert.deepEqual(look({ vms: [stopped], memories }), ['memory free: memory of db, which is not suspended']);
  });

  it('is a snapshot without a record, unless somebody works at it; it takes data along', () => {
    const path = '/store/vms/bbbbbbbb/snapshots/0a0a0a0a';
    const snapshots = [{ path, vmId: stopped.id }];
    assert.deepEqual(look({ vms: [stopped], snapshots }), [
      'directory ask: a snapshot of db, of which there is no record but its disks',
    ]);
    const ledger = [{ owner: stopped.id, kind: 'snapshot', name: path }];
    assert.deepEqual(look({ vms: [stopped], snapshots, ledger }), []);
    assert.deepEqual(look({ trash: [{ id: stopped.id, name: 'db' }], snapshots }).length, 1);
  });

  it('is what a run left in the ledger that has ended, and what is of a VM that is gone', () => {
    const ledger = [
      { owner: stopped.id, kind: 'tap', name: 'bgr-bbbbbbbb' },
      { owner: 'cccccccc', kind: 'vmm', name: '/run/cccccccc.sock' },
      { owner: 'dddddddd', kind: 'directory', name: '/store/vms/dddddddd' },
    ];
    assert.deepEqual(look({ ledger, vms: [stopped], trash: [{ id: 'cccccccc', name: 'old' }] }), [
      'ledger free: a run of db that has ended',
      'ledger free: old, which is in the trash',
      'ledger free: VM dddddddd, which no longer exists',
    ]);
  });

  it('asks before disks go of which there is no record: somebody may have lost the records', () => {
    const directories = [
      { name: 'eeeeeeee', path: '/store/vms/eeeeeeee', holdsDisk: true },
      { name: 'ffffffff', path: '/store/vms/ffffffff', holdsDisk: false },
    ];
    assert.deepEqual(look({ directories }), [
      'directory ask: VM eeeeeeee, of which there is no record but its disks',
      'directory free: VM ffffffff, of which there is no record',
    ]);
  });

  it('is a socket whose VMM is gone, and a VMM nobody wants', () => {
    assert.deepEqual(
      look({
        vms: [stopped],
        deadSockets: [{ path: '/run/bbbbbbbb.sock', id: stopped.id }],
        vmms: [{ pid: 9, socketPath: '/run/cccccccc.sock', id: 'cccccccc' }],
      }),
      ['socket free: a VMM of db that has ended', 'vmm free: VM cccccccc, which should not run'],
    );
  });

  it('is never a device that is only named like ours', () => {
    assert.deepEqual(look({ taps: ['bgr-12345678', 'bgr-mine'] }), [
      'tap leave: not ours: another banger or somebody else made it',
      'tap leave: not ours: another banger or somebody else made it',
    ]);
  });
});

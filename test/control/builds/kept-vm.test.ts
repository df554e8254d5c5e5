/** Machines of image builds: which addresses they take back, which are kept, and what a guest is told that goes on. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { chmod, mkdir, readdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { forgetKeptVm, forgetOldKeptVms, limitKeptVms } from '../../../src/control/builds/kept-vm.ts';
import { sweepImages } from '../../../src/control/upkeep/image-sweep.ts';
import { parseSubnet } from '../../../src/core/addresses.ts';
import { macFor, type VmRecord } from '../../../src/core/vm.ts';
import { NOT_WOKEN, WAKE_FAILED, wakeScript } from '../../../src/guest/wake.ts';
import { createBuildVms } from '../../../src/state/build-vms.ts';
import { layerFile, layerFiles } from '../../../src/storage/layout.ts';
import { readBootId } from '../../../src/system/processes.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { imagePlace } from '../images/image-host.ts';

const vmAt = (id: string, address: string): VmRecord =>
  sampleVm({ id, name: `build-${id}`, address, mac: macFor(address) });

describe('a build VM that comes back', () => {
  const pool = parseSubnet('10.0.0.0/29');
  const place = (listed: VmRecord[] = []) => createBuildVms({ list: () => listed }, { list: () => [] });

  it('gets its address, and the VM it comes instead of another one', () => {
    const vms = place();
    const fresh = vms.admit(pool, (address) => vmAt('fresh', address));
    assert.equal(fresh.address, '10.0.0.6');
    assert.equal(vms.readmit(pool, vmAt('old', '10.0.0.6'), fresh), true);
    assert.deepEqual([fresh.address, fresh.mac], ['10.0.0.5', macFor('10.0.0.5')]);
    assert.deepEqual(
      vms
        .list()
        .map(({ id }) => id)
        .sort(),
      ['fresh', 'old'],
    );
    assert.equal(vms.admit(pool, (address) => vmAt('next', address)).address, '10.0.0.4');
  });

  it('stays away while its address or its id is in use', () => {
    const vms = place([vmAt('web', '10.0.0.6')]);
    const fresh = vms.admit(pool, (address) => vmAt('fresh', address));
    assert.equal(vms.readmit(pool, vmAt('old', '10.0.0.6'), fresh), false, 'the address of a VM');
    assert.equal(vms.readmit(pool, vmAt('web', '10.0.0.3'), fresh), false, 'the id of a VM');
    assert.equal(vms.readmit(pool, vmAt('old', '10.0.0.4'), fresh), true);
    assert.equal(vms.readmit(pool, vmAt('old', '10.0.0.4'), fresh), false, 'it is here already');
    assert.equal(fresh.address, '10.0.0.5');
  });
});

describe('kept machines', () => {
  const keys = ['a', 'b', 'c', 'd', 'e'].map((letter) => letter.repeat(64));
  const layersWith = async (t: TestContext, machine: object) => {
    const { host } = await imagePlace(t);
    const { store } = host.config.paths;
    await mkdir(dirname(layerFile(store, '0')), { recursive: true });
    for (const [index, key] of keys.entries()) {
      for (const path of layerFiles(store, key)) await writeFile(path, '');
      const at = `2026-11-25T00:00:0${index}.000Z`;
      const facts = { key, parent: null, base: 'dev', step: 'run 1: x', sizeBytes: 0, createdAt: at, usedAt: at };
      host.stores.layers.insert({ ...facts, machine: JSON.stringify(machine), unsyncedBoot: null });
    }
    const files = async () => (await readdir(dirname(layerFile(store, '0')))).sort();
    return { host, files };
  };
  const whole = (key: string) => ['ext4', 'memory', 'vmstate'].map((kind) => `${key}.${kind}`);

  it('are no more than three, the last used ones; disks stay', async (t) => {
    const { host, files } = await layersWith(t, { done: 1 });
    await limitKeptVms(host);
    const [a = '', b = '', ...others] = keys;
    assert.deepEqual(await files(), [`${a}.ext4`, `${b}.ext4`, ...others.flatMap(whole)]);
    assert.deepEqual(
      host.stores.layers.list().map(({ machine }) => machine === null),
      [true, true, false, false, false],
    );
  });

  it('take the disk with them that is of no use alone', async (t) => {
    const { host, files } = await layersWith(t, { done: 0 });
    await forgetKeptVm(host, keys[0] ?? '');
    assert.deepEqual(await files(), keys.slice(1).flatMap(whole));
    assert.equal(host.stores.layers.find(keys[0] ?? ''), undefined);
  });

  it('do not outlive the boot of the host they were made on', async (t) => {
    const { host, files } = await layersWith(t, { done: 1, bootId: await readBootId() });
    await forgetOldKeptVms(host);
    assert.deepEqual(await files(), keys.flatMap(whole));
    const old = await layersWith(t, { done: 1, bootId: 'another' });
    await sweepImages(old.host);
    assert.deepEqual(
      await old.files(),
      keys.map((key) => `${key}.ext4`),
    );
  });

  it('whose record does not know them are swept', async (t) => {
    const { host, files } = await layersWith(t, { done: 1, bootId: await readBootId() });
    host.stores.layers.forgetKeptVm(keys[0] ?? '');
    host.stores.layers.remove(keys[1] ?? '');
    await sweepImages(host);
    assert.deepEqual(await files(), [`${keys[0]}.ext4`, ...keys.slice(2).flatMap(whole)]);
  });
});

describe('a guest that goes on', () => {
  const wakeWith = async (t: TestContext, programs: Record<string, string>) => {
    const bin = await tempDir(t);
    for (const [name, text] of Object.entries(programs)) {
      await writeFile(join(bin, name), `#!/bin/sh\n${text}\n`);
      await chmod(join(bin, name), 0o755);
    }
    const script = wakeScript(new Date(1_795_000_000_250), Buffer.alloc(32, 7));
    return spawnSync('/bin/sh', ['-c', `${script}echo on`], {
      env: { PATH: bin, LOG: join(bin, 'log') },
      encoding: 'utf8',
    });
  };

  it('is told the time and a seed before anything else', async (t) => {
    const ran = await wakeWith(t, { date: '[ "$*" = "-u -s @1795000000" ]', perl: `[ "$1" = -e ] && [ $# = 2 ]` });
    assert.deepEqual([ran.status, ran.stdout], [0, 'on\n']);
  });

  it('does nothing when it was not told', async (t) => {
    const cases: Record<string, string>[] = [
      { date: 'exit 1', perl: '' },
      { date: '', perl: 'exit 255' },
      { date: '' },
    ];
    for (const programs of cases) {
      const ran = await wakeWith(t, programs);
      assert.deepEqual([ran.status, ran.stdout, ran.stderr], [WAKE_FAILED, '', `${NOT_WOKEN}\n`]);
    }
  });

  it('gets a seed in words that perl understands', { skip: spawnSync('perl', ['-v']).error && 'no perl' }, () => {
    const [, program] = /perl -e '([^']*)'/.exec(wakeScript(new Date(), Buffer.alloc(32, 7))) ?? [];
    const checked = spawnSync('perl', ['-wc', '-e', program ?? ''], { encoding: 'utf8' });
    assert.equal(checked.status, 0, checked.stderr);
  });
});

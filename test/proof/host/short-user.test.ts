/** A VM under KVM of somebody who is not root: part of the short form, see short.test.ts. */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { describe, it } from 'node:test';
import type { VmDetail } from '../../../src/api/vm.ts';
import { OrdinaryUser } from '../../support/ordinary-user.ts';
import { kvmSkip, LIMIT, runsUnderKvm, SMALL } from '../under-kvm.ts';

describe('a VM under KVM of a user who is not root', { skip: kvmSkip('sudo', 'visudo', 'useradd', 'setpriv') }, () => {
  // QEMU is never run as root, so under fcqemu the group is the one way to KVM
  const ways = process.env.FIRECRACKER_BIN ? [[], ['kvm']] : [['kvm']];
  for (const groups of ways) {
    it(`runs and stops through sudo${groups.length > 0 ? ' and the group kvm' : ''}`, LIMIT, async () => {
      const { mode, gid } = await stat('/dev/kvm');
      assert.deepEqual([(mode & 0o777).toString(8), gid !== 0], ['660', true], 'the device is of a group');
      await using user = await OrdinaryUser.create(groups);
      await user.allow();
      await user.ok('run', 'web', ...SMALL);
      const { id, pid } = JSON.parse(await user.ok('show', 'web', '--json')) as VmDetail;
      assert.ok(await runsUnderKvm(pid), 'the VMM has no VM of KVM');
      const owner = /^Uid:\s+(\d+)/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1];
      assert.equal(owner, groups.includes('kvm') ? user.uid : '0');
      assert.equal(await user.ok('exec', '-n', 'web', '--', 'hostname'), 'web');
      await user.ok('stop', 'web');
      assert.ok(!existsSync(`/proc/${pid}`) && !existsSync(`/sys/class/net/bgr-${id}`), 'a stop left something');
    });
  }
});

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { hostMacFor, macFor } from '../../src/core/vm.ts';
import { createLocalPort } from '../../src/network/port.ts';
import { createTap } from '../../src/network/tap.ts';
import { createPrivileged } from '../../src/system/privilege.ts';
import { scriptedRunner } from '../support/scripted-runner.ts';

const NO_LINK_LOCAL = 'link set dev bgr-0a1b2c3d addrgenmode none';
const SETTING_UP = [
  'address add 172.30.0.1/32 dev bgr-0a1b2c3d',
  `link set dev bgr-0a1b2c3d address ${hostMacFor('172.30.0.7')} mtu 1500 up`,
  'route replace 172.30.0.7/32 dev bgr-0a1b2c3d src 172.30.0.1',
  `neighbour replace 172.30.0.7 lladdr ${macFor('172.30.0.7')} dev bgr-0a1b2c3d nud permanent`,
];
const tap = {
  ...{ name: 'bgr-0a1b2c3d', address: '172.30.0.7', gateway: '172.30.0.1', mtu: 1500, ownerUid: 1000 },
  ...{ mac: macFor('172.30.0.7'), hostMac: hostMacFor('172.30.0.7') },
};

function place() {
  const runner = scriptedRunner({ ip: {}, nft: {}, sysctl: {} });
  return { runner, privileged: createPrivileged(runner, { uid: 0, sudo: 'never', sudoProgram: 'sudo' }) };
}

describe('the device of a VM', () => {
  for (const [hasIpv6, first] of [
    [true, [NO_LINK_LOCAL]],
    [false, []],
  ] as const) {
    it(`is told ${hasIpv6 ? 'first to take no address of IPv6' : 'nothing of IPv6 in a kernel without'}`, async () => {
      const single = place();
      await createTap(single.privileged, 'ip', tap, { hasIpv6 });
      const [made, ...rest] = single.runner.calls;
      assert.equal(made, 'ip tuntap add dev bgr-0a1b2c3d mode tap user 1000');
      assert.deepEqual(
        rest,
        [...first, ...SETTING_UP].map((line) => `ip ${line}`),
      );

      const atOnce = place();
      await createTap(atOnce.privileged, 'ip', tap, { atOnce: true, hasIpv6 });
      assert.deepEqual(atOnce.runner.calls, [made, 'ip -batch -']);
      assert.equal(atOnce.runner.inputs[1], [...first, ...SETTING_UP].map((line) => `${line}\n`).join(''));

      const programs = { ip: 'ip', nft: 'nft', sysctl: 'sysctl' };
      const whole = place();
      const port = createLocalPort({ privileged: whole.privileged, programs, hasIpv6 });
      // there is no such device here, whose forwarding could be switched
      await port.attach(tap, { table: 'banger_test', members: [], vmToVm: true }).catch(() => {});
      assert.equal(whole.runner.calls.includes(`ip ${NO_LINK_LOCAL}`), hasIpv6);
      assert.ok(whole.runner.calls.includes(`ip ${SETTING_UP[0]}`));
    });
  }
});

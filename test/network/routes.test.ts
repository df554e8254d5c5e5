import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';
import { formatSubnet, parseSubnet } from '../../src/core/addresses.ts';
import { findWays, type listRoutes, readRules } from '../../src/network/routes.ts';
import { lacking } from '../bundle/sample-bundle.ts';
import { scriptedRunner } from '../support/scripted-runner.ts';
import { playScenario } from './support/small-world.ts';

const skip = process.getuid?.() !== 0 ? 'a network namespace needs root' : lacking('nft', 'unshare', 'ip', 'nsenter');

describe('the ways out of a host', () => {
  it('are the devices of all routes of all tables, that of the default route first', async () => {
    const routes = [
      { dst: '0.0.0.0/1', gateway: '10.8.0.1', dev: 'tun0', flags: [] },
      { dst: '10.1.0.0/16', dev: 'eth1', scope: 'link', flags: [] },
      { dst: '172.30.0.2', dev: 'bgr-0a1b2c3d', flags: [] },
      { dst: 'default', dev: 'wg0', table: '51820', flags: [] },
      { dst: 'default', gateway: '192.0.2.1', dev: 'eth0', flags: [] },
      { dst: '10.2.0.0/16', nexthops: [{ dev: 'eth2' }, { dev: 'eth3' }], flags: [] },
    ];
    const runner = scriptedRunner({ 'ip -j -4 route show table all': { stdout: JSON.stringify(routes) } });
    assert.deepEqual(
      (await findWays(runner, 'ip')).map(({ device, isDefault }) => (isDefault ? `${device}!` : device)),
      ['eth0!', 'tun0', 'eth1', 'wg0', 'eth2', 'eth3'],
    );
  });

  it('need no rule of banger where nobody else has any, nor in a kernel without', async () => {
    const kernels = [0, 32_766, 32_767].map((priority) => ({ priority, src: 'all' }));
    const state = (rules: object[], exit = 0) =>
      readRules(
        scriptedRunner({ 'ip -j -4 rule show': { stdout: JSON.stringify(rules), exit } }),
        'ip',
        '172.30.0.0/16',
      );
    assert.deepEqual(await state(kernels), { others: false, own: false });
    assert.deepEqual(await state([], 2), { others: false, own: false });
    const own = { priority: 1, dst: '172.30.0.0', dstlen: 16 };
    assert.deepEqual(await state([...kernels, own]), { others: false, own: true });
    assert.deepEqual(await state([...kernels, { priority: 5270 }]), { others: true, own: false });
  });
});

describe('the routes that take a range', () => {
  it('are those of all tables to networks with a part of it, in the words of the real `ip`', { skip }, async () => {
    const setting = [
      'ip link set lo up; ip tuntap add dev vpn0 mode tun; ip address add 10.1.0.5/16 dev vpn0; ip link set vpn0 up',
      'ip route add default dev vpn0; ip route add 0.0.0.0/1 dev vpn0; ip route add 128.0.0.0/1 dev vpn0',
      'ip route add 172.30.0.0/16 dev vpn0 table 52; ip route add throw 172.29.0.0/16 table 52',
      'ip route add unreachable 172.28.0.0/16; ip route add local default dev lo table 100',
      'ip route add 172.16.0.0/12 nexthop dev vpn0 nexthop dev lo; ip route add 11.0.0.0/8 dev vpn0',
      'ip route add multicast 239.0.0.0/8 dev vpn0; ip address add 172.31.0.1/32 dev lo',
      `exec '${process.execPath}' --input-type=module --eval "$0"`,
    ];
    const program = `
      const { createRunner } = await import('${join(import.meta.dirname, '../../src/system/runner.ts')}');
      const { listRoutes } = await import('${join(import.meta.dirname, '../../src/network/routes.ts')}');
      const ranges = [{ base: ${parseSubnet('10.1.2.0/24').base}, prefix: 24 }, { base: ${parseSubnet('172.30.0.0/16').base}, prefix: 16 }];
      console.log(JSON.stringify(await listRoutes(createRunner(), 'ip', ranges)));`;
    const { stdout } = await promisify(execFile)('unshare', ['--net', 'bash', '-c', setting.join('\n'), program]);
    const routes = (JSON.parse(stdout) as Awaited<ReturnType<typeof listRoutes>>).map(
      ({ destination, device, type, table = 'main' }) => `${formatSubnet(destination)} ${device} ${type} ${table}`,
    );
    assert.deepEqual(routes.sort(), [
      '10.1.0.0/16 vpn0 unicast main',
      '172.16.0.0/12 vpn0 unicast main',
      '172.28.0.0/16 undefined unreachable main',
      '172.30.0.0/16 vpn0 unicast 52',
    ]);
  });
});

describe('VMs of a host with several networks', { skip }, () => {
  it('reach whatever the host does, alone, and the host gets back what it had', async () => {
    const scenario = join(import.meta.dirname, 'support/routes-scenario.ts');
    assert.deepEqual(await playScenario(scenario), {
      before: ['2', '2'],
      'default route': '192.0.2.1',
      'second card': '10.8.0.1',
      'split tunnel': '10.8.0.1',
      'VPN by two halves': '10.8.0.1',
      'rule before all': '10.8.0.1',
      'rule for a range': '10.8.0.1',
      neighbour: 'nothing',
      'guest of the other': '10.8.0.1',
      'first one gone': [['2', '2'], '10.8.0.1'],
      'both gone': ['0', '0'],
      'rules left': '0',
      'neighbour when somebody wants it': '192.0.2.2',
      'what somebody wanted': ['1', '1'],
    });
  });
});

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { type FirewallMember, renderRules } from '../../src/network/nftables.ts';
import { createRunner } from '../../src/system/runner.ts';

const web: FirewallMember = { tap: 'bgr-aaaaaaaa', address: '172.30.0.2', nat: true };
const db: FirewallMember = { tap: 'bgr-bbbbbbbb', address: '172.30.0.3', nat: false };

describe('renderRules', () => {
  it('names each VM once per set, and NAT only for those that want it', () => {
    const text = renderRules({ table: 'banger', members: [web, db], vmToVm: true });
    assert.match(text, /set taps \{ type ifname; elements = \{ "bgr-aaaaaaaa", "bgr-bbbbbbbb" \}; \}/);
    assert.match(text, /set vms .* \{ "bgr-aaaaaaaa" \. 172\.30\.0\.2, "bgr-bbbbbbbb" \. 172\.30\.0\.3 \}/);
    assert.match(text, /set nat \{ type ipv4_addr; elements = \{ 172\.30\.0\.2 \}; \}/);
  });

  it('lets nothing through from one that does not speak for its address yet', () => {
    const text = renderRules({ table: 'banger', members: [{ ...web, closed: true }, db], vmToVm: true });
    assert.match(text, /set taps \{ type ifname; elements = \{ "bgr-aaaaaaaa", "bgr-bbbbbbbb" \}; \}/);
    // in no pair, so that what comes from a tap without one is dropped, of IP and of ARP
    assert.doesNotMatch(text, /"bgr-aaaaaaaa" \. /);
    assert.match(text, /set nat \{ type ipv4_addr; \}/);
    assert.equal(text.match(/iifname @taps drop/g)?.length, 3);
  });

  it('has as many rules for 500 VMs as for one', () => {
    const rules = (count: number) => {
      const members = Array.from({ length: count }, (_, i) => ({
        tap: `bgr-${i}`,
        address: `172.30.1.${i % 250}`,
        nat: true,
      }));
      return renderRules({ table: 'banger', members, vmToVm: true }).split('\n').length;
    };
    assert.equal(rules(500), rules(1));
  });

  it('turns VM to VM traffic off by one word', () => {
    assert.match(renderRules({ table: 'banger', members: [web], vmToVm: false }), /iifname @taps oifname @taps drop/);
  });

  it('says who may wake VMs that are asleep: others of the same banger where they may talk, under their own addresses', () => {
    const chain = (name: string, vmToVm: boolean) => {
      const text = renderRules({ table: 'banger', members: [web, db], vmToVm, sleepDevice: 'bgr-0badcafe' });
      const [, rest = ''] = text.split(`chain ${name} {\n`);
      return (rest.split('\n  }')[0] ?? '').split('\n').map((line) => line.trim());
    };
    for (const vmToVm of [true, false]) {
      const forward = chain('forward', vmToVm);
      assert.ok(forward.includes('iifname "bgr-0badcafe" oifname @taps accept'));
      const wall = forward.indexOf('oifname "bgr-0badcafe" drop');
      assert.ok(wall > 0 && wall < forward.indexOf('iifname @taps ip saddr @nat accept'));
      const door = forward.indexOf('iifname @taps oifname "bgr-0badcafe" accept');
      if (vmToVm) assert.ok(door > 0 && door < wall);
      else assert.equal(door, -1);
      const [, first, second] = chain('postrouting', vmToVm);
      assert.deepEqual([first, second], ['oifname "bgr-0badcafe" accept', 'ip saddr @nat oifname != @taps masquerade']);
    }
    assert.doesNotMatch(renderRules({ table: 'banger', members: [web], vmToVm: true }), /badcafe|oifname "/);
  });

  it('lets VMs ping the host and reach none of its services, unless that is wanted', () => {
    const input = (vmToHost?: boolean) => {
      const text = renderRules({ table: 'banger', members: [web], vmToVm: true, vmToHost });
      const [, rest = ''] = text.split('chain input {\n');
      return (rest.split('\n  }')[0] ?? '').split('\n').map((line) => line.trim());
    };
    assert.ok(input().includes('iifname @taps icmp type echo-request accept'));
    assert.equal(input().at(-1), 'iifname @taps reject with icmpx admin-prohibited');
    assert.equal(input(true).at(-1), 'iifname @taps accept');
  });

  it('leads DNS queries of VMs to another port, which nobody else reaches', () => {
    const guestDns = { gateway: '172.30.0.1', port: 42_053 };
    const text = renderRules({ table: 'banger', members: [web], vmToVm: true, guestDns });
    for (const protocol of ['udp', 'tcp']) {
      assert.ok(text.includes(`iifname @taps ip daddr 172.30.0.1 ${protocol} dport 53 dnat ip to 172.30.0.1:42053\n`));
      assert.ok(text.includes(`iifname != @taps ip daddr 172.30.0.1 ${protocol} dport 42053 drop\n`));
      assert.ok(text.includes(`iifname @taps ip daddr 172.30.0.1 ${protocol} dport 42053 accept\n`));
    }
    assert.doesNotMatch(renderRules({ table: 'banger', members: [web], vmToVm: true }), /dnat|42053/);
  });

  it('is taken by nft for any set of members', async (t) => {
    const runner = createRunner();
    const check = (text: string) => runner.run(['nft', '--check', '-f', '-'], { input: text });
    try {
      await check('list tables\n');
    } catch (error) {
      t.skip(`nft cannot be used here: ${error instanceof Error ? error.message : error}`);
      return;
    }
    const member = fc.record({
      tap: fc.stringMatching(/^bgr-[0-9a-f]{8}$/),
      address: fc.ipV4(),
      nat: fc.boolean(),
    });
    const members = fc.uniqueArray(member, { maxLength: 8, selector: (each) => each.tap });
    await fc.assert(
      fc.asyncProperty(members, fc.boolean(), async (list, vmToVm) => {
        const guestDns = vmToVm ? { gateway: '172.30.0.1', port: 42_053 } : undefined;
        const sleepDevice = vmToVm ? 'bgr-0badcafe' : undefined;
        await check(renderRules({ table: 'banger_test', members: list, vmToVm, guestDns, sleepDevice }));
      }),
      { numRuns: 15 },
    );
  });
});

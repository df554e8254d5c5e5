import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { promisify } from 'node:util';
import { followHostChanges } from '../../src/network/changes.ts';
import { NETLINK_NETFILTER, NETLINK_ROUTE } from '../../src/system/netlink.ts';
import { lacking } from '../bundle/sample-bundle.ts';

const run = promisify(execFile);
const skip = process.getuid?.() !== 0 ? 'a network namespace needs root' : lacking('nft', 'unshare', 'ip');

/** A kernel that says what it is told to, by family; one that is missing cannot be subscribed to. */
function kernel(families: Record<number, { datagrams: string[]; lost?: boolean }>) {
  return async (family: number) => {
    const said = families[family];
    return (
      said && {
        drain(seen: (datagram: Buffer) => void) {
          for (const datagram of said.datagrams.splice(0)) seen(Buffer.from(datagram, 'latin1'));
          const complete = said.lost !== true;
          said.lost = false;
          return complete;
        },
        [Symbol.dispose]() {},
      }
    );
  };
}

describe('changes of the host', () => {
  it('are those of our own table, not of others that rewrite theirs all the time', async () => {
    const rules = { datagrams: ['\0\0docker\0', '\0\0banger_0\0\0', '\0\0f2b-table\0'] };
    const changes = await followHostChanges(
      'banger',
      kernel({ [NETLINK_NETFILTER]: rules, [NETLINK_ROUTE]: { datagrams: [] } }),
    );
    assert.deepEqual(changes.take(), { rules: false, links: false });
    rules.datagrams.push('\0\0docker\0', '\x06\0banger\0\0');
    assert.deepEqual(changes.take(), { rules: true, links: false });
    assert.deepEqual(changes.take(), { rules: false, links: false });
  });

  it('are taken for granted when some were lost', async () => {
    const rules = { datagrams: ['\0\0docker\0'], lost: true };
    const links = { datagrams: [], lost: true };
    const changes = await followHostChanges('banger', kernel({ [NETLINK_NETFILTER]: rules, [NETLINK_ROUTE]: links }));
    assert.deepEqual(changes.take(), { rules: true, links: true });
    assert.deepEqual(changes.take(), { rules: false, links: false });
  });

  it('are taken for granted where they cannot be heard', async () => {
    const changes = await followHostChanges('banger', kernel({ [NETLINK_ROUTE]: { datagrams: [] } }));
    for (let times = 0; times < 2; times++) assert.deepEqual(changes.take(), { rules: true, links: false });
  });
});

describe('a canary', { skip }, () => {
  it('tells whether the rules are there', async () => {
    const scenario = join(import.meta.dirname, 'support/canary-scenario.ts');
    const { stdout } = await run('unshare', ['--net', process.execPath, scenario], { timeout: 60_000 });
    assert.deepEqual(JSON.parse(stdout), [true, false, false, true, false, true]);
  });
});

describe('changes that a real kernel tells', { skip }, () => {
  it('are all that can be done to rules and links, and nothing else', async () => {
    const scenario = join(import.meta.dirname, 'support/changes-scenario.ts');
    const { stdout } = await run('unshare', ['--net', process.execPath, scenario], { timeout: 60_000 });
    const rules = { rules: true, links: false };
    const links = { rules: false, links: true };
    const nothing = { rules: false, links: false };
    assert.deepEqual(JSON.parse(stdout), {
      'nothing at all': nothing,
      'table of another': nothing,
      'element deleted': rules,
      'rule added': rules,
      'chain flushed': rules,
      'table flushed': rules,
      'ruleset flushed': rules,
      'set added': rules,
      'table deleted': rules,
      'route deleted': links,
      'routes flushed': links,
      'rule of others': links,
      'address deleted': links,
      'forwarding switched': links,
      'forwarding of all switched': links,
      'device down': links,
      'device deleted': links,
      'more than the kernel keeps': rules,
    });
  });
});

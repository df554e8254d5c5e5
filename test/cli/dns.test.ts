import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { DnsPlan, DnsSetupResult, DnsStatus } from '../../src/api/dns.ts';
import { cli, done, operation } from './cli.ts';

const listener = {
  state: 'listening' as const,
  address: '127.0.0.1',
  port: 42_069,
  tcpConnections: 0,
  holder: null,
  lastError: null,
  queries: { answer: 3, nxdomain: 1, formerr: 0 },
};

const status: DnsStatus = {
  zone: 'vm',
  reverseZones: ['30.172.in-addr.arpa'],
  serial: 1_800_000_000,
  vms: 1,
  host: listener,
  guests: {
    ...listener,
    state: 'stopped',
    address: '172.30.0.1',
    port: 42_053,
    forwarded: { answered: 0 },
    inFlight: 0,
  },
  records: [{ name: 'web.vm', type: 'A', data: '172.30.0.2' }],
  resolver: { kind: 'dnsmasq', reason: 'dnsmasq runs.', setUp: false },
};

describe('dns status', () => {
  it('shows who answers, for whom, how often, and with what', async () => {
    const { stdout } = await cli('dns status', { dnsStatus: () => status });
    assert.match(stdout, /^zone +vm, and 30\.172\.in-addr\.arpa$/m);
    assert.match(stdout, /^listener +127\.0\.0\.1 port 42069$/m);
    assert.match(stdout, /^queries +3 answer, 1 nxdomain$/m);
    assert.match(stdout, /^for VMs +starts with the first VM$/m);
    assert.match(stdout, /^resolver +dnsmasq; it does not know this zone: banger dns setup$/m);
    assert.match(stdout, /^web\.vm +A +172\.30\.0\.2$/m);
    assert.deepEqual(JSON.parse((await cli('dns status --json', { dnsStatus: () => status })).stdout), status);
  });

  it('says who holds a port that cannot be had', async () => {
    const error = { at: '2026-01-02T03:04:05.000Z', message: '127.0.0.1 port 42069 is in use by dnsmasq (pid 812).' };
    const waiting = { ...listener, state: 'waiting' as const, holder: 'dnsmasq (pid 812)', lastError: error };
    const { stdout } = await cli('dns status', { dnsStatus: () => ({ ...status, host: waiting }) });
    assert.match(stdout, /^listener +NOT LISTENING, tried again by itself: .* in use by dnsmasq \(pid 812\)\.$/m);
  });

  it('explains a name link by link, and exits with 1 when one is broken', async () => {
    const links = [
      { link: 'record' as const, ok: true, message: 'The zone has web.vm.' },
      { link: 'resolver' as const, ok: false, message: 'It has not been told.', hint: 'Tell it: banger dns setup' },
    ];
    const names: unknown[] = [];
    const explainDns = ({ query }: { query?: { name: string } }) => {
      names.push(query?.name);
      return { name: 'web', links };
    };
    const { status: exit, stdout } = await cli('dns status --explain web', { explainDns });
    assert.deepEqual(names, ['web']);
    assert.equal(exit, 1);
    assert.match(stdout, /^ok +record +The zone has web\.vm\.\nBROKEN +resolver +It has not .*\n +Tell it: banger/m);
  });
});

describe('dns setup', () => {
  const plan: DnsPlan = {
    summary: 'dnsmasq will ask.',
    steps: [{ do: 'remove', path: '/etc/x' }],
    text: 'dnsmasq will ask.\nremove /etc/x\n',
    script: '#!/bin/sh\nrm -f /etc/x\n',
  };
  const result: DnsSetupResult = {
    summary: plan.summary,
    changed: true,
    proof: { name: 'abc._probe.vm', address: '172.30.0.1' },
  };

  it('prints what it will do, does it, and ends with the proof', async () => {
    const asked: unknown[] = [];
    const script = {
      planDns: () => plan,
      setUpDns: ({ body }: { body: { undo?: boolean | undefined } }) => {
        asked.push(body);
        return operation({ kind: 'dns.setup' });
      },
      events: { op1: [done({ result })] },
    };
    const { status: exit, stdout } = await cli('dns setup', script);
    assert.equal(exit, 0);
    assert.deepEqual(asked, [{ undo: false }]);
    assert.match(
      stdout,
      /^dnsmasq will ask\.\nremove \/etc\/x\nDone: .*getaddrinfo\("abc\._probe\.vm"\) = 172\.30\.0\.1/,
    );
    assert.deepEqual(JSON.parse((await cli('dns setup --json', script)).stdout), result);
  });

  it('changes nothing with --dry-run or --script, and nothing where there is nothing to take back', async () => {
    const unchanged = (stdout: string) => ({ status: 0, stdout, stderr: '' });
    assert.deepEqual(await cli('dns setup --dry-run', { planDns: () => plan }), unchanged(plan.text));
    assert.deepEqual(await cli('dns setup -n', { planDns: () => plan }), unchanged(plan.text));
    assert.deepEqual(await cli('dns setup --script', { planDns: () => plan }), unchanged(plan.script));
    const nothing = { ...plan, summary: 'No setup was found.', steps: [], text: 'No setup was found.\n' };
    assert.deepEqual(await cli('dns setup --undo', { planDns: () => nothing }), unchanged(nothing.text));
  });
});

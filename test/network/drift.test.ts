import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { compareLinks, parseRoutes } from '../../src/network/drift.ts';

/** As Linux prints it: device, destination, gateway, flags, three counters, mask, three more. */
const TEXT = `Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010200C0	0003	0	0	0	00000000	0	0	0
*	0000870A	00000000	0201	0	0	0	0000FFFF	0	0	0
bgr-a47f05e2	0200870A	00000000	0005	0	0	0	FFFFFFFF	0	0	0
`;

const web = { tap: 'bgr-a47f05e2', address: '10.135.0.2' };
const db = { tap: 'bgr-00000001', address: '10.135.0.3' };

describe('routes of the kernel', () => {
  it('are read with their devices and prefixes', () => {
    assert.deepEqual(parseRoutes(TEXT), [
      { device: 'eth0', destination: '0.0.0.0/0' },
      { device: undefined, destination: '10.135.0.0/16' },
      { device: 'bgr-a47f05e2', destination: '10.135.0.2/32' },
    ]);
  });
});

describe('what others took away', () => {
  const routes = parseRoutes(TEXT);

  it('is nothing when all is there', () => {
    const drift = compareLinks([web], '10.135.0.0/16', routes, () => true);
    assert.deepEqual(drift, { goneTaps: [], lostRoutes: [], poolRouteLost: false });
  });

  it('is a route, a device, or the route of the pool', () => {
    assert.deepEqual(
      compareLinks([web, db], '10.136.0.0/16', routes, () => true),
      { goneTaps: [], lostRoutes: [db], poolRouteLost: true },
    );
    assert.deepEqual(
      compareLinks([web, db], '10.135.0.0/16', routes, (link) => link === web),
      { goneTaps: ['bgr-00000001'], lostRoutes: [], poolRouteLost: false },
    );
  });

  it('is a route that leads to another device now', () => {
    const other = { ...web, tap: 'bgr-00000009' };
    assert.deepEqual(compareLinks([other], '10.135.0.0/16', routes, () => true).lostRoutes, [other]);
  });
});

/** unbound: one file with a stub zone for the VMs and one per reverse zone. */
import { BangerError } from '../../errors.ts';
import { baseName, MARKER, type Recipe, type Route, removals, restartService, zonesOf } from './plan.ts';

const USUAL_DIR = '/etc/unbound/unbound.conf.d';

export const unbound: Recipe = {
  plan(route, host) {
    if (host.configDir === undefined) {
      throw new BangerError('host_unprepared', 'unbound is not told to include any directory of files.', {
        hint: `Add the line include-toplevel: "${USUAL_DIR}/*.conf" to /etc/unbound/unbound.conf, then run: banger dns setup`,
      });
    }
    return {
      summary: `unbound will ask bangerd for names below ${route.zone}.`,
      steps: [
        { do: 'write', path: fileIn(host.configDir, route), content: renderStubZones(route) },
        { do: 'run', argv: ['unbound-checkconf'] },
        restartService(host, 'unbound'),
      ],
    };
  },
  ownedPaths(route, host) {
    const configured = host.kind === 'unbound' ? host.configDir : undefined;
    return [...new Set([USUAL_DIR, configured ?? USUAL_DIR])].map((dir) => fileIn(dir, route));
  },
  undo: (_route, host, paths) => [...removals(paths), restartService(host, 'unbound')],
};

function renderStubZones(route: Route): string {
  const zones = zonesOf(route).map((zone) => `${zone}.`);
  return [
    MARKER,
    'server:',
    '    # bangerd listens on loopback, which unbound does not ask unless it may',
    '    do-not-query-localhost: no',
    // private addresses are what the zone is about
    `    private-domain: "${route.zone}."`,
    // not signed, and the root proves that the zone does not exist
    ...zones.map((zone) => `    domain-insecure: "${zone}"`),
    // unbound answers private reverse zones with "no such name" itself unless told otherwise
    ...route.reverseZones.map((zone) => `    local-zone: "${zone}." transparent`),
    ...zones.flatMap((zone) => [
      'stub-zone:',
      `    name: "${zone}"`,
      `    stub-addr: ${route.address}@${route.port}`,
      '    stub-no-cache: yes',
    ]),
    '',
  ].join('\n');
}

function fileIn(directory: string, route: Route): string {
  return `${directory}/${baseName(route)}.conf`;
}

// Concurrent requests of one session on express-session, in a fixed order: `/slow` loads the
// session, waits for the response to another request with the same cookie, and changes one value.
'use strict'
const http = require('node:http')
const session = require('express-session')

const sessions = session({ secret: 's', resave: false, saveUninitialized: false })
const pages = {
  '/sign-in': (req) => { req.session.user = 'ada' },
  '/theme': (req) => { req.session.theme = 'dark' },
  '/sign-out': (req) => new Promise((done) => req.session.destroy(done)),
  '/slow': async (req, during) => {
    await send(during, req.headers.cookie)
    req.session.visits = 1
  },
}

const server = http.createServer((req, res) => sessions(req, res, async () => {
  const url = new URL(req.url, 'http://localhost')
  await pages[url.pathname]?.(req, url.searchParams.get('during'))
  const { cookie, ...values } = req.session ?? {}
  res.end(JSON.stringify(values))
}))

async function send(path, cookie) {
  const url = `http://127.0.0.1:${server.address().port}${path}`
  const response = await fetch(url, { headers: cookie ? { cookie } : {} })
  return { body: await response.text(), cookie: response.headers.get('set-cookie')?.split(';')[0] }
}

server.listen(0, '127.0.0.1', async () => {
  for (const during of ['/theme', '/sign-out']) {
    const { cookie } = await send('/sign-in')
    await send(`/slow?during=${during}`, cookie)
    console.log(`after ${during} during /slow:`, (await send('/', cookie)).body)
  }
  server.close()
})

// Package localstore is the S3 that weir dev brings along: gofakes3 over a
// folder of the data directory.
//
// It stands at the end of a message's way: the action s3 writes to it through
// the AWS SDK as it would to Amazon S3, over connections that never leave the
// process (Dial). Objects are plain files, <folder>/<bucket>/<key>, for people
// to look at. A listener on loopback is possible; it asks for signatures by the
// store's own key, checks Host and sends no CORS header, so that no web page
// reaches it through a browser.
package localstore
